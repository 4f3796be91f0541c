"""A real chat model learns: `prolong train --recipe smollm2` from some seeds, each evaluated before and after.

Writes DOCS/real-model.jsonl (one object per seed: curve, scores with intervals, rollouts before and after), DOCS/real-model.png
and the results in DOCS/real-model.md. What is there already is not made again; a run or evaluation that was stopped goes on.
`prolong bootstrap --model smollm2` makes the model and its prompts first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..buffer.journal.journal import read_journal
from ..common.metrics import read_metrics
from ..common.tokenizer import Tokenizer
from ..common.types import Group, int32_array
from ..launch.evaluate.scores import OVERALL
from .measure import report, run_command
from .real_page import write_real_page
from .results_file import this_machine

MODEL = Path("models/smollm2")
HOURS = 3 * 3600.0
PLAIN_SETTINGS = ("--temperature", "0.7", "--top-p", "1", "--max-tokens", "40")  # as in the recipe's training
EXAMPLES = 3  # prompts of each task whose first rollouts are kept


def prolong(folder: Path, name: str, words: Sequence[str]) -> None:
    """Run `prolong WORDS` to the end. Raises: RuntimeError."""
    env = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    run_command([sys.executable, "-m", "prolong.launch.cli", *words], timeout_s=HOURS, log=folder / f"{name}.log", env=env)


def measure_seed(seed: int, root: Path, rollouts: int, overrides: Sequence[str]) -> dict:
    """Train and evaluate one seed; what is there already is kept. Returns its row."""
    name = f"seed{seed}"
    folder, scores = root / name, root / f"{name}-evaluation"
    if not (folder / "summary.json").exists():
        run = [f"run.name={name}", f"run.root={root}", f"run.seed={seed}", "buffer.address=tcp://127.0.0.1:0"]
        prolong(root, f"{name}-train", ["train", "--recipe", "smollm2", *run, *overrides])
    models = [str(MODEL), str(folder)]
    command = ["evaluate", *models, "--recipe", str(folder / "config.yaml"), "--out", str(scores), "--n", str(rollouts)]
    prolong(root, f"{name}-evaluate", [*command, *PLAIN_SETTINGS])
    return seed_result(seed, folder, scores)


def seed_result(seed: int, folder: Path, scores: Path) -> dict:
    """The result of one seed."""
    evaluation = json.loads((scores / "evaluation.json").read_text())
    before, after = evaluation["models"]
    steps = read_metrics(folder / "metrics.jsonl")
    return {
        "seed": seed,
        "wall_s": steps[-1]["wall_s"],
        "steps": len(steps),
        "scores": {
            score["scope"]: {"before": score["reward"], "after": later["reward"], "gain": after["differences"][score["scope"]]}
            for score, later in zip(before["scores"], after["scores"], strict=True)
        },
        "curve": learning_curve(steps),
        "rollouts": compared_rollouts(scores, [before["name"], after["name"]]),
    }


def learning_curve(steps: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """What is drawn, step by step."""
    keys = {
        "validation/sampled/mean": "heldout",
        "validation/sampled/version": "scored",
        "reward/mean": "reward",
        "rollout/tokens_mean": "tokens",
    }
    return [
        {"step": step["step"], "wall_s": round(step["wall_s"], 1)}
        | {short: round(step[key], 4) for key, short in keys.items() if key in step}
        for step in steps
    ]


def compared_rollouts(scores: Path, models: Sequence[str]) -> list[dict]:
    """The first rollouts of the first prompts of each task, of both models, in words."""
    tokenizer = Tokenizer.load(str(MODEL))
    first, second = (first_groups(scores / model / "journal") for model in models)
    taken: dict[str, int] = {}
    found = []
    for uid, group in first.items():
        scope = f"{group.prompt.domain}/{group.prompt.task}"
        taken[scope] = taken.get(scope, 0) + 1
        if taken[scope] > EXAMPLES or uid not in second:
            continue
        told = {"task": scope, "prompt": asked_question(group.prompt.text), "answer": json.loads(group.prompt.answer)["answer"]}
        for when, each in (("before", group), ("after", second[uid])):
            rollout = each.rollouts[0]
            text = tokenizer.decode(int32_array(rollout.token_ids), skip_special=True)
            told[when] = {"text": text, "reward": rollout.verdict.reward, "tokens": rollout.num_tokens}
        found.append(told)
    return found


def first_groups(journal: Path) -> dict[str, Group]:
    """uid -> the first recorded rollout of the prompt; it has the smallest ordinal."""
    opened = read_journal(journal)
    try:
        groups: dict[str, Group] = {}
        for ordinal in sorted(opened.groups()):
            group = opened.group(ordinal)
            if group.rollouts:
                groups.setdefault(group.prompt.uid, group)
        return groups
    finally:
        opened.close()


def asked_question(text: str) -> str:
    """The user's message in the rendered prompt."""
    return text.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def draw_real(rows: Sequence[dict], path: Path) -> None:
    """Plot training reward (lines) and held-out pass rate (dots) over steps, in one colour per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
    for i, row in enumerate(rows):
        points, colour = row["curve"], f"C{i}"
        axes.plot([p["step"] for p in points], [p["reward"] for p in points], color=colour, alpha=0.4, linewidth=1)
        held = [(p["scored"], p["heldout"]) for p in points if "heldout" in p]
        axes.plot(*zip(*held, strict=True), "o-", color=colour, markersize=5, label=f"seed {row['seed']}")
        for when, step in (("before", 0), ("after", points[-1]["step"])):
            score = row["scores"][OVERALL][when]
            ends = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
            axes.errorbar([step], [score["value"]], ends, color=colour, capsize=4, marker="s", markersize=4)
    axes.set(xlabel="learner step", ylabel="share of right answers", ylim=(0, 1.02))
    axes.set_title(
        "SmolLM2-135M: held-out questions (dots; squares: 95 % intervals), training rollouts (thin lines)", fontsize=10
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench real-model", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--root", type=Path, default=Path("runs/bench-real"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--rollouts", type=int, default=8, help="of each held-out prompt in an evaluation (default: 8)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*", help="settings of the runs, such as model.dtype=bfloat16")
    args = parser.parse_args(argv)
    args.root.mkdir(parents=True, exist_ok=True)
    rows = [measure_seed(seed, args.root, args.rollouts, args.overrides) for seed in args.seeds]
    (args.docs / "real-model.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_real(rows, args.docs / "real-model.png")
    words = " ".join(["prolong bench real-model", *argv])
    machine = this_machine()
    measured = f"Measured on {date.today()} with `{words}`, on {machine.cores} cores ({machine.cpu})."
    write_real_page(args.docs / "real-model.md", rows, measured)
    result: dict = {"bench": "real_model", "wall_s": [row["wall_s"] for row in rows]}
    for scope in rows[0]["scores"]:
        for when in ("before", "after", "gain"):
            result[f"{scope}_{when}"] = [[round(value, 3) for value in row["scores"][scope][when].values()] for row in rows]
    report(result, as_json=args.json)
    return 0
