"""The learning curves of the demo: three seeds of `prolong train --recipe demo`, as data and as a picture.

Writes DOCS/demo-curves.jsonl (one object per seed: before, after, curve, wall seconds) and DOCS/demo-curves.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from .measure import TrainedRun, report, train_run

PREFIX = "validation/sampled/"


def curve(result: TrainedRun) -> list[dict[str, float]]:
    """Held-out pass rate at T = 1 and mean training reward over steps and wall time."""
    keys = {f"{PREFIX}mean": "heldout", "reward/mean": "reward"}
    points = []
    for step in result.steps:
        point = {short: step[key] for key, short in keys.items() if key in step}
        points.append({"step": step["step"], "wall_s": step["wall_s"], **point})
    return points


def seed_row(seed: int, result: TrainedRun) -> dict:
    """The result of one seed."""
    summary = result.summary
    ends = {
        f"{when}_{setting}": summary[when][setting]["mean"] for when in ("before", "after") for setting in ("sampled", "greedy")
    }
    return {
        "seed": seed,
        **ends,
        "by_task": {when: summary[when]["sampled"]["by_task"] for when in ("before", "after")},
        "wall_s": result.spent.wall_s,
        "cpu_s": result.spent.cpu_s,
        "staleness_max": summary["staleness_max"],
        "reference_resets": summary["reference_resets"],
        # from the command; groups were scored before
        "first_step_s": result.learner_after_s + result.steps[0]["wall_s"],
        "curve": curve(result),
    }


def draw_demo(rows: list[dict], path: Path) -> None:
    """Plot training reward (lines) and held-out pass rate (dots) over wall time, in one colour per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
    for i, result in enumerate(rows):
        points = result["curve"]
        colour, end_s = f"C{i}", points[-1]["wall_s"]
        axes.plot([p["wall_s"] for p in points], [p["reward"] for p in points], color=colour, alpha=0.45, linewidth=1)
        held = [(p["wall_s"], p["heldout"]) for p in points if "heldout" in p] + [(end_s, result["after_sampled"])]
        axes.plot(*zip(*held, strict=True), "o-", color=colour, markersize=5, label=f"seed {result['seed']}")
    axes.axhline(0.9, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds since the learner started", ylabel="share of right answers at T = 1", ylim=(0, 1.02))
    axes.set_title("make demo: held-out prompts (dots), training rollouts (thin lines)")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench demo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-demo"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    rows = []
    for seed in range(args.seeds):
        rows.append(seed_row(seed, train_run(f"seed{seed}", [f"run.seed={seed}", *args.overrides], root=args.root)))
    (args.docs / "demo-curves.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    draw_demo(rows, args.docs / "demo-curves.png")
    result = {"bench": "demo", "seeds": args.seeds}
    for key in ("before_sampled", "after_sampled", "before_greedy", "after_greedy", "first_step_s", "wall_s"):
        result[key] = [round(r[key], 4) for r in rows]
    result["wall_s_median"] = statistics.median(r["wall_s"] for r in rows)
    report(result, as_json=args.json)
    return 0
