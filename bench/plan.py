"""Predicted against measured: three demo runs are recorded, devices are fitted to them, and other settings are predicted.

Then those are run too. Without the first fifth of the steps, steps per second should be within 10 %, and mean staleness within
.5. On a busy machine the processes of others that want a core are counted during each run, and the prediction is told of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..launch.plan.calibrate import calibrate
from ..launch.plan.recorded import RecordedRun, read_recorded
from ..launch.plan.refine import RunFit, fit_of, refine
from ..launch.plan.simulation.cluster import Cluster
from .measure import report, train_run
from .other_load import OtherLoad


@dataclass(frozen=True, slots=True)
class Setting:
    """What the runs differ in."""

    eta: int
    actors: int
    n: int

    @property
    def name(self) -> str:
        """Of its run."""
        return f"eta{self.eta}-actors{self.actors}-n{self.n}"

    @property
    def overrides(self) -> list[str]:
        """As settings of the run."""
        return [f"buffer.eta={self.eta}", f"launch.actors={self.actors}", f"sampling.n={self.n}"]


RECORDED = (Setting(0, 1, 16), Setting(2, 1, 16), Setting(2, 2, 8))
UNSEEN = (Setting(1, 1, 16), Setting(4, 1, 16), Setting(2, 1, 8), Setting(1, 2, 16), Setting(0, 1, 12), Setting(4, 3, 12))
FIXED = ("data.heldout=[]", "validation.every=0", "buffer.keep_history=true")


def record_run(setting: Setting, args: argparse.Namespace) -> RecordedRun:
    """Run a setting, unless it may be reused, and read what it recorded."""
    folder: Path = args.root / setting.name
    note = folder / "others.json"
    if not (args.reuse and note.is_file()):
        fixed = [*FIXED, f"run.steps={args.steps}", *setting.overrides, *args.overrides]
        with OtherLoad() as load:
            train_run(setting.name, fixed, root=args.root, recipe=args.recipe)
        # not while the processes of the run start
        note.write_text(json.dumps(load.mean_of_last(read_recorded(str(folder)).measured_s)))
    return replace(read_recorded(str(folder)), others=json.loads(note.read_text()))


def rows_of(cluster: Cluster, runs: Sequence[RecordedRun]) -> list[RunFit]:
    """Every run beside its simulation."""
    return [fit_of(cluster, run) for run in runs]


def prediction_table(fits: Sequence[RunFit], runs: Sequence[RecordedRun]) -> str:
    """Predicted against measured, a line for each run."""
    lines = [f"{'run':24s} {'steps/s':>8s} {'predicted':>9s} {'error':>7s} {'staleness':>9s} {'predicted':>9s} {'others':>7s}"]
    lines += [
        f"{fit.name:24s} {fit.steps_per_s:8.3f} {fit.simulated_steps_per_s:9.3f} {fit.error:+7.1%} "
        f"{fit.staleness_mean:9.2f} {fit.simulated_staleness_mean:9.2f} {run.others:7.2f}"
        for fit, run in zip(fits, runs, strict=True)
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench plan", description=__doc__)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--root", type=Path, default=Path("runs/bench-plan"))
    parser.add_argument("--cores", type=float, default=float(len(os.sched_getaffinity(0))), help="of this machine")
    parser.add_argument("--reuse", action="store_true", help="take the runs that are in --root already")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    recorded = [record_run(setting, args) for setting in RECORDED]
    cluster = refine(calibrate(recorded, args.cores), recorded)
    known = rows_of(cluster, recorded)
    unseen = [record_run(setting, args) for setting in UNSEEN]
    fits = rows_of(cluster, unseen)
    result: dict[str, object] = {
        "bench": "plan",
        "steps": args.steps,
        "calibrated_on": [asdict(fit) for fit in known],
        "unseen": [asdict(fit) | {"error": fit.error, "others": run.others} for fit, run in zip(fits, unseen, strict=True)],
        "steps_per_s_error_max": max(abs(fit.error) for fit in fits),
        "staleness_error_max": max(abs(fit.simulated_staleness_mean - fit.staleness_mean) for fit in fits),
    }
    if args.json:
        report(result, as_json=True)
        return 0
    print(f"calibrated on\n{prediction_table(known, recorded)}\n\npredicted\n{prediction_table(fits, unseen)}\n")
    print(f"largest error: {result['steps_per_s_error_max']:.1%} of steps/s, {result['staleness_error_max']:.2f} versions")
    return 0
