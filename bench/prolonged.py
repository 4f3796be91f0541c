"""ProRL's claim on a small scale: does a run go on improving when the reference, the optimizer, or both are reset?

A half-trained model (made here, `--model`: six minutes on one core) trains on a wide mixture of the demo's tasks of math and
logic, synchronously, in one run per arm and seed, `--jobs` at a time on one core each. Runs that have ended are not repeated:
the command can be stopped and started again.

    main    {never, reference, optimizer, both, triggered, ema} with a sizeable KL, {small_kl, no_kl}
    long    the same question over many more steps, with a small KL: {never, both}

Writes DOCS/prolonged-SUITE.jsonl (one object per run: arm, seed, before, after, curve) and DOCS/prolonged-SUITE.png. With
`--arms` the rows of other arms stay in that file, and in the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from ..common.metrics import read_metrics
from .measure import report, train_run

LARGE, SMALL = "objective.kl_beta=1.0", "objective.kl_beta=1e-3"
RESETS = "reference.reset_every=25"
# forgets at the pace at which RESETS does
SOFT_RESET = "reference.ema=0.96"
TRIGGERS = ["reference.plateau=2", "reference.min_delta=0.01", "reference.cooldown=10"]
SUITES: dict[str, dict[str, list[str]]] = {
    "main": {
        "never": [LARGE],
        "reference": [LARGE, RESETS, "reference.reset_optimizer=false"],
        "optimizer": [LARGE, RESETS, "reference.reset_reference=false"],
        "both": [LARGE, RESETS],
        "triggered": [LARGE, *TRIGGERS],
        "ema": [LARGE, SOFT_RESET],
        "small_kl": [SMALL],
        "no_kl": ["objective.kl_beta=0"],
    },
    "long": {
        "never": [SMALL],
        "both": [SMALL, "reference.reset_every=100"],
    },
}
SIZE = {"main": ["run.steps=120", "sampling.n=16"], "long": ["run.steps=500", "sampling.n=8"]}
EVERY = 10  # steps between sweeps; a score arrives a few steps after the one that its sweep began at
BASE = [
    "buffer.eta=0", "buffer.batch_groups=8", "model.max_context=192", "sampling.max_tokens=80", "validation.max_tokens=80",
    f"validation.every={EVERY}", "validation.prompts=24", "validation.greedy=false", "reference.reset_every=0",
    "reference.reset_optimizer=true", "checkpoint.every=50", "launch.pin_cores=false", "learner.lr=1e-4",
    "rewards.truncated=1.0",
]  # fmt: skip
SKILL_STEPS = 1200  # of the demo's 4,000: the skill is there in part, and training can deepen it


def make_wide_model(folder: Path) -> None:
    """Make prompts and a model of the wide level, unless they exist."""
    if (folder / "model.safetensors").exists():
        return
    from ..launch.demo import bootstrap
    from ..launch.demo import tasks as demo_tasks

    folder.mkdir(parents=True, exist_ok=True)
    bootstrap.make_demo(
        folder, 0, level=demo_tasks.WIDE_LEVEL, skill_steps=SKILL_STEPS, context=256, tasks=demo_tasks.MATH_AND_LOGIC
    )


def run_row(arm: str, seed: int, folder: Path) -> dict:
    """The result of one run."""
    summary, records = json.loads((folder / "summary.json").read_text()), read_metrics(folder / "metrics.jsonl")
    curve = [
        {
            "step": record["step"],
            "reward": round(record["reward/mean"], 4),
            "kl": round(record["reference/kl"], 5),
            "entropy": round(record["learner/entropy"], 4),
            **({"heldout": round(record["validation/sampled/mean"], 4)} if "validation/sampled/mean" in record else {}),
        }
        for record in records
    ]
    resets = [[record["step"], name] for record in records for name in record if name.startswith("reference/reset_")]
    ends = {when: summary[when]["sampled"]["mean"] for when in ("before", "after")}
    return {"arm": arm, "seed": seed, **ends, "resets": resets, "wall_s": summary["wall_s"], "curve": curve}


def sections(curve: list[dict], count: int) -> list[float]:
    """Mean held-out pass rate over the sweeps of each `count`-th of a run, without the sweep of version 0."""
    scores = [(point["step"] - 1, point["heldout"]) for point in curve if "heldout" in point and point["step"] > EVERY]
    length = curve[-1]["step"] / count
    parts = [[score for step, score in scores if i * length <= step < (i + 1) * length] for i in range(count)]
    return [round(statistics.mean(part), 3) for part in parts]


def last_tenth(curve: list[dict], key: str) -> float:
    """Mean of a quantity over the last tenth of the steps."""
    return round(statistics.mean(point[key] for point in curve[-len(curve) // 10 :]), 3)


def run_all(suite: str, args: argparse.Namespace) -> list[dict]:
    """Run every arm and seed that has not ended, `--jobs` at a time, each on a core of its own."""
    root, cores = args.root / suite, SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: args.jobs]:
        cores.put(core)
    fixed = [*BASE, *SIZE[suite], f"model={args.model}"]
    fixed += [f"data.{name}=[{{file: {args.model}/{name}.jsonl}}]" for name in ("train", "heldout")]

    def one(arm: str, seed: int) -> dict:
        folder = root / f"{arm}-{seed}"
        if not (folder / "summary.json").exists():
            core = cores.get()
            try:
                overrides = [*fixed, f"run.seed={seed}", *SUITES[suite][arm], *args.overrides]
                train_run(folder.name, overrides, root=root, timeout_s=7200, cores={core})
            finally:
                cores.put(core)
        return run_row(arm, seed, folder)

    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(one, arm, seed) for seed in range(args.seeds) for arm in args.arms or SUITES[suite]]
        return [job.result() for job in jobs]


def with_other_arms(suite: str, rows: list[dict], path: Path) -> list[dict]:
    """`rows` and, from the file at `path`, those of the arms that `rows` does not hold; in the order of the suite's arms."""
    lines = path.read_text().splitlines() if path.exists() else []
    measured = {row["arm"] for row in rows}
    rows = [*rows, *(row for row in map(json.loads, lines) if row["arm"] not in measured)]
    order = list(SUITES[suite])
    return sorted(rows, key=lambda row: (row["seed"], order.index(row["arm"])))


def draw_arms(suite: str, rows: list[dict], path: Path) -> None:
    """Plot the held-out pass rate over steps: the mean of the seeds as a line, their range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110)
    for i, arm in enumerate(dict.fromkeys(each["arm"] for each in rows)):
        curves = [
            {(p["step"] - 1) // EVERY * EVERY: p["heldout"] for p in each["curve"] if "heldout" in p}
            | {each["curve"][-1]["step"]: each["after"]}
            for each in rows
            if each["arm"] == arm
        ]
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        values = [[curve[step] for curve in curves] for step in steps]
        axes.plot(steps, [statistics.mean(v) for v in values], "o-", color=f"C{i}", markersize=3, label=arm)
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=f"C{i}", alpha=0.12, linewidth=0)
    axes.set(xlabel="learner steps", ylabel="held-out pass rate at T = 1 (mean and range of the seeds)")
    axes.set_title(f"prolong bench prolonged, suite {suite}")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench prolonged", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--arms", nargs="*", choices=sorted({arm for suite in SUITES.values() for arm in suite}))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each")
    parser.add_argument("--model", type=Path, default=Path("models/wide"))
    parser.add_argument("--root", type=Path, default=Path("runs/prolonged"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], help="section.key=value for every run")
    args = parser.parse_args(argv)
    make_wide_model(args.model)
    rows = run_all(args.suite, args)
    path = args.docs / f"prolonged-{args.suite}.jsonl"
    shown = with_other_arms(args.suite, rows, path)
    path.write_text("".join(json.dumps(each) + "\n" for each in shown))
    draw_arms(args.suite, shown, path.with_suffix(".png"))
    result: dict = {"bench": "prolonged", "suite": args.suite, "seeds": args.seeds}
    for arm in dict.fromkeys(each["arm"] for each in rows):
        runs = [each for each in rows if each["arm"] == arm]
        fifths = zip(*(sections(each["curve"], 5) for each in runs), strict=True)
        result[arm] = {
            "after": [round(each["after"], 3) for each in runs],
            "second_half": round(statistics.mean(sections(each["curve"], 2)[1] for each in runs), 3),
            "fifths": [list(seeds) for seeds in fifths],
            **{key: [last_tenth(each["curve"], key) for each in runs] for key in ("kl", "entropy")},
        }
    report(result, as_json=args.json)
    return 0
