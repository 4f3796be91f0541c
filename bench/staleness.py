"""What staleness does to learning: eta x correction x seed x task x learning rate, each run in this process, in lockstep.

    prolong bench staleness --seeds 5         run what is missing of the grid, in order of worth, and append it to --rows
    prolong bench staleness --draw            make DOCS/staleness.jsonl, DOCS/staleness.png and the tables of the rows
    prolong bench staleness --real CELL ...   run cells as real runs too, with buffer and actor, and compare

A run is real training of the demo's model on two of the demo's tasks (lockstep.py): every batch is exactly min(eta, version)
versions old, so that a run takes seconds of one core and its result does not depend on the machine's speed. The command can be
stopped and started again; a run that is in --rows is not repeated. With eta 0 and one update a batch all corrections are the
same computation: that cell is run once.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..common.config.sections import Config
from ..common.config.trees import adaptive_config
from ..common.tokenizer import Tokenizer
from ..common.types import Prompt
from ..launch.demo.bootstrap import fill_demo_folder
from ..launch.recipes import compose
from .assumed_speed import AdaptiveEta
from .lockstep import LockstepResult, LockstepRun, RolloutUse, task_prompts
from .measure import train_run
from .staleness_report import (
    TARGET,
    arms_table,
    differences,
    draw_staleness,
    fill_page,
    grid_tables,
    length_table,
    time_table,
    write_docs_rows,
)

# two tasks each; the first are answered in 5 to 21 tokens, the second in 5 to 28
TASKS = {
    "sums": ("math/addition", "math/digit_sum"),
    "lists": ("logic/number_sorting", "instructions/bullets"),
}
RATES = (5e-5, 5e-4)
FIRST_ETAS, OTHER_ETAS = (0, 2, 8), (4, 16, 1)
BYPASS, DECOUPLED = "objective.correction=bypass", "objective.correction=decoupled"
GRID: dict[str, tuple[str, ...]] = {
    "decoupled": (DECOUPLED,),
    "bypass": (BYPASS,),
    "uncorrected": (DECOUPLED, "objective.weighting=none"),
    "approximate": ("objective.correction=approximate",),
}
ON_POLICY = "on_policy"  # the one arm of eta 0
# what else could be done about staleness, at two bounds and with fewer seeds
ARM_ETAS, ARM_SEEDS = (8, 2), 3
ARMS: dict[str, tuple[str, ...]] = {
    "bypass_wide": (BYPASS, "objective.clip_low=0.5", "objective.clip_high=1.0"),
    "bypass_dual": (BYPASS, "objective.dual_clip=3"),
    "decoupled_cap_1": (DECOUPLED, "objective.truncation=1"),
    "decoupled_masked": (DECOUPLED, "objective.weighting=mask"),
    "decoupled_ess": (DECOUPLED, "learner.ess_on_policy=1"),
    "bypass_ess": (BYPASS, "learner.ess_on_policy=1"),
    "sapo": (BYPASS, "objective.loss=sapo"),
    "cispo": (BYPASS, "objective.loss=cispo"),
    "gepo": (BYPASS, "objective.loss=gepo"),
    "m2po": (BYPASS, "objective.loss=m2po"),
    "dppo_tv": (BYPASS, "objective.loss=dppo_tv", "objective.clip_low=0.15", "objective.clip_high=0.15"),
    "dppo_kl": (BYPASS, "objective.loss=dppo_kl", "objective.clip_low=0.05", "objective.clip_high=0.05"),
}
CONTEST = ("bypass", "dppo_tv", "decoupled", "approximate", "bypass_wide", "bypass_dual", "m2po", "dppo_kl", "gepo")
# an eta that begins at 2 and moves
ADAPTS = "buffer.adaptive={min: 0, max: 16}"
ADAPTIVE_ARMS = {f"{arm}_adaptive": (*(GRID | ARMS)[arm], ADAPTS) for arm in ("decoupled", "bypass", "approximate")}
ADAPTIVE_BEGIN = 2
# slow enough for eta to move before the target is reached, with the steps that it takes
SLOW_RATE, SLOW_STEPS, SLOW_ETAS, SLOW_ARM = 2e-5, 100, (0, 2, 4, 8, 16), "bypass"
STEPS, GROUPS, ROLLOUTS = 40, 8, 8
BASE = (
    f"buffer.batch_groups={GROUPS}", f"sampling.n={ROLLOUTS}", "objective.kl_beta=0",
    "buffer.dynamic_sampling=false", "validation.every=0", "validation.n=4", "validation.greedy=false",
)  # fmt: skip
QUARTERS = 4
LENGTH_ETA = 8  # of the table of lengths
DATA_FILE = "staleness.jsonl"  # in docs/


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One run of the study."""

    task: str
    lr: float
    eta: int
    arm: str
    seed: int


def grid_cells(seed: int, etas: Sequence[int]) -> Iterator[Cell]:
    """The runs of one seed of the grid, at these etas."""
    for eta in etas:
        for arm in (ON_POLICY,) if eta == 0 else GRID:
            for task in TASKS:
                yield from (Cell(task, lr, eta, arm, seed) for lr in RATES)


def arm_cells(seed: int, eta: int) -> Iterator[Cell]:
    """The runs of one seed of the other arms, at one eta."""
    for arm in ARMS:
        for task in TASKS:
            yield from (Cell(task, lr, eta, arm, seed) for lr in RATES)


def contest_cells(task: str, lr: float, eta: int, seed: int) -> Iterator[Cell]:
    """The runs of one seed that tell which correction may be the default."""
    yield Cell(task, lr, 0, ON_POLICY, seed)
    yield from (Cell(task, lr, eta, arm, seed) for arm in CONTEST)


def adaptive_cells(seed: int) -> Iterator[Cell]:
    """The runs of one seed whose eta moves, and those of the slow rate that they are compared with."""
    for task in TASKS:
        yield from (Cell(task, lr, ADAPTIVE_BEGIN, arm, seed) for lr in RATES for arm in ADAPTIVE_ARMS)
        yield Cell(task, SLOW_RATE, ADAPTIVE_BEGIN, f"{SLOW_ARM}_adaptive", seed)
        yield from (Cell(task, SLOW_RATE, eta, SLOW_ARM if eta else ON_POLICY, seed) for eta in SLOW_ETAS)


def all_cells(seeds: int) -> Iterator[Cell]:
    """Every run, in order of worth: what tells the arms apart first, then the grid seed by seed, then the rest."""
    low, high = RATES
    for seed in range(min(seeds, ARM_SEEDS)):
        # where a stale run may collapse, and where what is clipped may make it slow
        yield from contest_cells("sums", high, 2, seed)
        if seed == 0:
            yield from contest_cells("sums", low, 8, seed)
        yield from contest_cells("lists", high, 2, seed)
    for seed in range(seeds):
        yield from grid_cells(seed, FIRST_ETAS + OTHER_ETAS)
    for seed in range(seeds):
        yield from adaptive_cells(seed)
    for eta in ARM_ETAS:
        for seed in range(min(seeds, ARM_SEEDS)):
            yield from arm_cells(seed, eta)


def overrides_of(cell: Cell, model: Path) -> list[str]:
    """The settings of a run, over the recipe `demo`; a run of processes takes them too."""
    own = (GRID | ARMS | ADAPTIVE_ARMS | {ON_POLICY: (DECOUPLED,)})[cell.arm]
    files = (
        f"data.{name}=[" + ",".join(f"{{file: {model}/{name}.jsonl, only: {task}}}" for task in TASKS[cell.task]) + "]"
        for name in ("train", "heldout")
    )
    steps = SLOW_STEPS if cell.lr == SLOW_RATE else STEPS
    settings = [f"run.steps={steps}", f"learner.lr={cell.lr}", f"buffer.eta={cell.eta}", f"run.seed={cell.seed}"]
    return [*BASE, f"model={model}", *files, *settings, *own]


class Study:
    """What the runs of one process share: prompts, tokenizer, configurations."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._tokenizer = Tokenizer.load(str(model))
        self._prompts: dict[tuple[str, str], list[Prompt]] = {}
        self._configs: dict[Cell, Config] = {}

    def run(self, cell: Cell) -> dict:
        """The row of one run."""
        cfg = self._config(cell)
        prompts, heldout = (self._prompts_of(name, cell.task, cfg) for name in ("train", "heldout"))
        began = time.process_time()
        rules = adaptive_config(cfg.buffer)
        adaptive = None if rules is None else AdaptiveEta(rules, cell.eta)
        run = LockstepRun(cfg, prompts, heldout, self._tokenizer)
        row = row_of(cell, run.run(adaptive or (lambda version, metrics: cell.eta)))
        moved = {"etas": adaptive.etas, "reasons": adaptive.reasons} if adaptive else {}
        return row | moved | {"cpu_s": round(time.process_time() - began, 1)}

    def _config(self, cell: Cell) -> Config:
        kind = replace(cell, seed=0)
        if kind not in self._configs:
            self._configs[kind] = compose("demo", overrides_of(kind, self._model))
        cfg = self._configs[kind]
        return replace(cfg, run=replace(cfg.run, seed=cell.seed))

    def _prompts_of(self, name: str, task: str, cfg: Config) -> list[Prompt]:
        key = name, task
        if key not in self._prompts:
            self._prompts[key] = task_prompts(self._model / f"{name}.jsonl", TASKS[task], cfg, self._tokenizer)
        return self._prompts[key]


def row_of(cell: Cell, result: LockstepResult) -> dict:
    """What is kept of a run: rewards by the version that sampled, and how stale its steps were."""
    means = {
        short: round(float(np.mean([step[name] for step in result.metrics])), 5)
        for short, name in (
            ("ess", "policy/ess"), ("lag", "policy/lag_mean"), ("k3", "policy/kl_behaviour_k3"),
            ("clipped_high", "policy/clip_high"), ("clipped_low", "policy/clip_low"), ("truncated", "policy/truncated"),
            ("grad_norm", "learner/grad_norm"), ("entropy", "learner/entropy"),
        )
    }  # fmt: skip
    return {
        **asdict(cell),
        "heldout": round(result.heldout, 4),
        **means,
        "ess_min": round(min(step["policy/ess"] for step in result.metrics), 4),
        "by_length": use_by_length(result.use),
        "curve": [round(reward, 3) for reward in result.rewards],
        "ess_curve": [round(step["policy/ess"], 3) for step in result.metrics[3::4]],
    }


def use_by_length(use: RolloutUse) -> dict[str, list[float]]:
    """By quarters of the rollouts, the shortest first: mean length, share of tokens that keep their gradient, and ESS."""
    tokens, clipped, weight, squared = (
        np.concatenate(each) for each in (use.tokens, use.clipped, use.weight, use.weight_squared)
    )
    parts = np.array_split(np.argsort(tokens, kind="stable"), QUARTERS)
    return {
        "tokens": [round(float(tokens[part].mean()), 1) for part in parts],
        "kept": [round(float(1 - clipped[part].sum() / tokens[part].sum()), 4) for part in parts],
        "ess": [round(float(weight[part].sum() ** 2 / (tokens[part].sum() * squared[part].sum())), 4) for part in parts],
    }


def read_rows(path: Path) -> dict[Cell, dict]:
    """The rows of the runs that have ended. A last line that was cut off is none."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[Cell(row["task"], row["lr"], row["eta"], row["arm"], row["seed"])] = row
    return rows


def run_missing(args: argparse.Namespace) -> None:
    """Run what is not in the rows yet, until --hours are over."""
    torch.set_num_threads(1)
    # it warns of its own time limits, which the verifiers replace
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    done = read_rows(args.rows)
    if not (args.model / "model.safetensors").exists():
        fill_demo_folder(args.model)
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    study, until = Study(args.model), time.monotonic() + 3600 * args.hours
    part, parts = map(int, args.part.split("/"))
    missing = [cell for cell in dict.fromkeys(all_cells(args.seeds)) if cell not in done][part::parts]
    for number, cell in enumerate(missing, 1):
        if time.monotonic() > until:
            break
        row = study.run(cell)
        with args.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = f"{cell.task} lr {cell.lr:g} eta {cell.eta} {cell.arm} seed {cell.seed}"
        sys.stdout.write(f"{number}/{len(missing)} {shown}: {row['heldout']:.3f}, {row['cpu_s']} s\n")
        sys.stdout.flush()


def compare_with_real_runs(args: argparse.Namespace) -> list[dict]:
    """Run cells as real runs too, with buffer, actor and learner, and compare. The engine is the one that starts at once."""
    compared = []
    for text in args.real:
        task, lr, eta, arm, seed = text.split(",")
        cell = Cell(task, float(lr), int(eta), arm, int(seed))
        name = f"{task}-{lr}-eta{eta}-{arm}-{seed}"
        overrides = [*overrides_of(cell, args.model), "actor.engine=transformers"]
        real = train_run(name, overrides, root=args.rows.parent / "real", timeout_s=3600)
        mean = {key: float(np.mean([step[key] for step in real.steps])) for key in ("policy/ess", "policy/lag_mean")}
        inline = read_rows(args.rows)[cell]
        compared.append(
            {
                "cell": name,
                "heldout": [inline["heldout"], round(real.summary["after"]["sampled"]["mean"], 4)],
                "ess": [inline["ess"], round(mean["policy/ess"], 4)],
                "lag": [inline["lag"], round(mean["policy/lag_mean"], 3)],
                # a batch's mean reward, of the rollouts as they were trained
                "real_curve": [round(step["reward/mean"], 3) for step in real.steps],
            }
        )
    return compared


def draw(args: argparse.Namespace) -> None:
    """Make the files of docs/ of the rows that there are, and print the tables."""
    # those that the page was made of are there in a checkout without runs
    rows = list((read_rows(args.docs / DATA_FILE) | read_rows(args.rows)).values())
    grid = [row for row in rows if row["lr"] in RATES]
    write_docs_rows(rows, args.docs / DATA_FILE)
    draw_staleness(grid, args.docs / "staleness.png")
    tables = [
        f"{len(rows)} runs. A cell: held-out reward at the end ± standard error, steps to a reward of {TARGET}, mean ESS.",
        grid_tables(rows),
        "The default against the others, seed by seed, over all etas above 0: mean difference ± standard error (pairs).",
        differences(grid),
        "Other arms, cells as above:",
        arms_table(grid, [*ARMS], sorted(ARM_ETAS)),
        f"At eta {LENGTH_ETA}, by quarters of the rollouts, the shortest first: tokens, share that keep their gradient, ESS.",
        length_table(grid, LENGTH_ETA),
        f"Time to a reward of {TARGET} in steps of eta 0, at speeds like the published ones (`bench/assumed_speed.py`):",
        time_table(rows),
    ]
    made = "\n\n".join(tables)
    fill_page(args.docs / "staleness.md", made)
    sys.stdout.write(made + "\n")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench staleness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hours", type=float, default=24.0, help="begin no run after so many hours")
    parser.add_argument("--part", default="0/1", help="of the missing runs, e.g. 0/2 and 1/2 in two processes started together")
    parser.add_argument("--draw", action="store_true", help="run nothing; make data file, picture and tables of the rows")
    parser.add_argument(
        "--real", nargs="*", metavar="TASK,LR,ETA,ARM,SEED", default=[], help="run these as real runs too, and compare"
    )
    parser.add_argument(
        "--rows", type=Path, default=Path("runs/staleness/rows.jsonl"), help="one line for every run that ended"
    )
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args(argv)
    if args.draw:
        draw(args)
    elif args.real:
        for compared in compare_with_real_runs(args):
            sys.stdout.write(json.dumps(compared) + "\n")
    else:
        run_missing(args)
    return 0
