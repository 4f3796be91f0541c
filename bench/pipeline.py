"""The gain from asynchrony: the same work at eta = 0, 1, 2, rounds interleaved, learner on one core and actor on the other.

The part `real` runs a model through the whole system, and gives steps per second at eta over those at eta = 0 as the median of
paired ratios. Its load is the demo's math and logic without KL and without dynamic sampling: there both sides work about
equally long for a step. `at_most` is what asynchrony can gain, by the work of both sides at eta = 0: their sum over the larger.
With the load `recipe` (code in sandboxes, more rollouts than are trained) the actor is the slower one.
The part `sleeping` has an actor and a learner that sleep for known times, on the real buffer (sleepers.py), and gives the bound
on the period over the period reached: at 1.0 the pipeline itself costs nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
from pathlib import Path

from ..common.config.run_files import save_config
from ..common.config.sections import Config
from ..common.tokenizer import Tokenizer
from ..launch.recipes import compose
from .long_tail import long_tail_overrides, make_long_tail_model
from .measure import TrainedRun, median_ratio, report, seconds_per_step, train_run
from .sleepers import Devices, SleepingLearner, actor_in_a_thread

ETAS = (0, 1, 2)
LOADS = {
    "balanced": [
        "data.train=[{file: models/demo/train.jsonl, only: math}, {file: models/demo/train.jsonl, only: logic}]",
        "buffer.dynamic_sampling=false",
        "objective.kl_beta=0",
        "reference.reset_every=0",
    ],
    "long-tail": [*long_tail_overrides(), "buffer.dynamic_sampling=false"],
    "recipe": [],
}


def real_run(eta: int, round_: int, steps: int, root: Path, recipe: str, overrides: list[str]) -> TrainedRun:
    fixed = [f"buffer.eta={eta}", f"run.steps={steps}", f"run.seed={round_}", "launch.pin_cores=true", "data.heldout=[]"]
    return train_run(f"eta{eta}-round{round_}", [*fixed, "validation.every=0", *overrides], root=root, recipe=recipe)


def shares(result: TrainedRun) -> dict:
    """How each side spent the time between the first and the last step, as shares."""
    steps = result.steps[1:]
    total = sum(step["learner/step_s"] for step in steps)
    actor = {key: sum(step.get(f"actor/{key}", 0.0) for step in steps) for key in ("busy_s", "idle_s", "weights_s")}
    return {
        "learner_wait": sum(step["learner/wait_s"] for step in steps) / total,
        "actor_busy": actor["busy_s"] / max(sum(actor.values()), 1e-9),
        "actor_idle": actor["idle_s"] / max(sum(actor.values()), 1e-9),
        "actor_weights": actor["weights_s"] / max(sum(actor.values()), 1e-9),
        "staleness_max": max(step["buffer/staleness_max"] for step in steps),
        "cpu_s": result.spent.cpu_s,
    }


def most_to_gain(result: TrainedRun) -> float:
    """The steps per second of a perfect overlap over those of no overlap, from the work of both sides in a run at eta = 0."""
    steps = result.steps[1:]
    learner = sum(step["learner/step_s"] - step["learner/wait_s"] for step in steps)
    actor = sum(step["actor/busy_s"] + step["actor/weights_s"] for step in steps)
    return (learner + actor) / max(learner, actor)


def real_part(rounds: int, steps: int, root: Path, recipe: str, overrides: list[str]) -> dict:
    results = {eta: [] for eta in ETAS}
    for round_ in range(rounds):
        for eta in ETAS:
            results[eta].append(real_run(eta, round_, steps, root, recipe, overrides))
    periods = {eta: [result.seconds_per_step for result in runs] for eta, runs in results.items()}
    sync = results[0]
    return {
        "async_over_sync": {eta: median_ratio(periods[0], periods[eta]) for eta in ETAS},
        "at_most": statistics.median(most_to_gain(run) for run in sync),
        "step_s": {eta: statistics.median(values) for eta, values in periods.items()},
        "shares": {
            eta: {key: statistics.median(shares(run)[key] for run in runs) for key in shares(runs[0])}
            for eta, runs in results.items()
        },
    }


def sleeping_run(cfg: Config, devices: Devices, root: Path) -> float:
    """Seconds per step with a new buffer process."""
    folder = root / cfg.run.name
    folder.mkdir(parents=True, exist_ok=True)
    save_config(cfg, folder / "config.yaml")
    tokenizer = Tokenizer.load(cfg.model.path).fingerprint
    command = [sys.executable, "-m", "prolong.launch.cli", "buffer", "--recipe", str((folder / "config.yaml").absolute())]
    with (folder / "buffer.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as buffer:
        try:
            with actor_in_a_thread(cfg, devices, tokenizer):
                walls = SleepingLearner(cfg, devices, tokenizer).run()
            buffer.wait(30)
        finally:
            buffer.kill()
    return seconds_per_step(walls)


def sleeping_part(rounds: int, steps: int, root: Path, recipe: str, overrides: list[str]) -> dict:
    devices = Devices(capacity=16, group_s=0.4, train_s=0.3)
    shares = {eta: [] for eta in ETAS}
    for round_ in range(rounds):
        for eta in ETAS:
            name = f"sleep-eta{eta}-round{round_}"
            fixed = [f"run.name={name}", f"run.root={root}", f"run.steps={steps}", f"buffer.eta={eta}", "data.heldout=[]"]
            port = free_port()
            cfg = compose(
                recipe, [*fixed, *overrides, f"buffer.address=tcp://127.0.0.1:{port}", "buffer.dynamic_sampling=false"]
            )
            period = sleeping_run(cfg, devices, root)
            shares[eta].append(devices.period_bound_s(cfg.buffer.batch_groups, eta) / period)
    return {
        "devices": dataclasses.asdict(devices),
        "bound_over_period": {eta: statistics.median(v) for eta, v in shares.items()},
    }


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench pipeline", description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-pipeline"))
    parser.add_argument("--only", choices=("real", "sleeping"))
    parser.add_argument("--load", choices=sorted(LOADS), default="balanced", help="of the part `real`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    result: dict = {"bench": "pipeline", "rounds": args.rounds, "steps": args.steps}
    if args.only != "real":
        result["sleeping"] = sleeping_part(args.rounds, 3 * args.steps, args.root, args.recipe, args.overrides)
    if args.only != "sleeping":
        if args.load == "long-tail":
            make_long_tail_model()
        overrides = [*LOADS[args.load], *args.overrides]
        result |= {"load": args.load} | real_part(args.rounds, args.steps, args.root, args.recipe, overrides)
    report(result, as_json=args.json)
    return 0
