"""`prolong plan CLUSTER.yaml`: how fast a run would be on machines that are described, before they are rented.

CLUSTER.yaml --simulate (the shipped buffer core in virtual time)--> steps/s, use, staleness, waste; closed form beside it
recorded runs --calibrate, refine--> CLUSTER.yaml
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import yaml
from rich.console import Console

from ...common.config.sections import Config
from ...common.config.trees import to_tree
from ...common.errors import UserError
from ...common.files import write_atomically
from ...common.json_object import JsonObject
from ..recipes import compose
from .calibrate import calibrate, shared_cores
from .recorded import RecordedRun, read_recorded
from .refine import RunFit, fit_of, refine
from .report import planned_record, show_best, show_fits, show_planned, sweep_table
from .search import find_best
from .simulation.cluster import Cluster, read_cluster
from .sweep import Planned, SweepPoint, is_of_pool, parse_sweep, plan_one, run_sweep

# settings that a run must be given, and a plan does not need
UNUSED = ["model.path=planned", "data.train=[{file: planned.jsonl}]", "buffer.max_message_mb=4096"]


def plan_on_cluster(args: argparse.Namespace) -> int:
    """Plan a run, or several for a sweep; 0. args: of `plan_parser`."""
    console = Console(highlight=False)
    if args.plot is not None:
        _check_plot(args.plot, args.sweep)
    fits: list[RunFit] = []
    runs = [read_recorded(name) for name in args.calibrate]
    if runs:
        fits = _calibrate(runs, args.cluster, args.cores)
        if not args.json:
            show_fits(console, fits)
            console.print(f"devices are written to {args.cluster}")
    settings = _Settings(args.recipe, args.overrides, runs)
    cluster = read_cluster(args.cluster)
    if args.sweep:
        points = _sweep(cluster, settings, args)
        _show_sweep(console, args, points)
        return 0
    given = plan_one(cluster, settings.compose(), steps=args.steps, seed=args.seed)
    best = find_best(given, steps=args.steps, seed=args.seed) if args.search else None
    if args.json:
        print(json.dumps(_record(given, best, fits)))
        return 0
    show_planned(console, given)
    if best is not None:
        show_best(console, given, best)
    return 0


class _Settings:
    """The configuration that is planned: a recipe, or the last recorded run, with overrides on top."""

    def __init__(self, recipe: str, overrides: Sequence[str], runs: Sequence[RecordedRun]) -> None:
        self._recipe, self._overrides = recipe, list(overrides)
        if not recipe and runs:
            self._recipe = str(runs[-1].paths.config)

    def compose(self, *more: str) -> Config:
        """The configuration with further overrides. Raises: ConfigError."""
        unused = [] if self._recipe else UNUSED
        return compose(self._recipe, [*unused, *self._overrides, *more])


def _calibrate(runs: Sequence[RecordedRun], path: Path, cores: float | None) -> list[RunFit]:
    """Write the cluster of recorded runs to a new file. Raises: UserError when there is one."""
    if path.exists():
        raise UserError(f"{path} exists: --calibrate writes CLUSTER.yaml; give the name of a new file, or remove it")
    cluster = refine(calibrate(runs, shared_cores(runs[-1].cfg) if cores is None else cores), runs)
    fits = [fit_of(cluster, run) for run in runs]
    write_atomically(path, _yaml_of(cluster, fits))
    return fits


def _yaml_of(cluster: Cluster, fits: Sequence[RunFit]) -> str:
    notes = [f"# calibrated on {fit.name}: steps per second {fit.error:+.1%} in its simulation" for fit in fits]
    return "\n".join([*notes, yaml.safe_dump(to_tree(cluster), sort_keys=False, default_flow_style=None, width=120)])


def _sweep(cluster: Cluster, settings: _Settings, args: argparse.Namespace) -> tuple[str, list[SweepPoint]]:
    key, values = parse_sweep(args.sweep)
    cfgs = [settings.compose(*([] if is_of_pool(key) else [f"{key}={value}"])) for value in values]
    return key, list(run_sweep(cluster, cfgs, key, values, steps=args.steps, seed=args.seed))


def _show_sweep(console: Console, args: argparse.Namespace, swept: tuple[str, list[SweepPoint]]) -> None:
    key, points = swept
    if args.json:
        rows = [{"value": point.value} | planned_record(point.planned) for point in points]
        print(json.dumps({"sweep": key, "points": rows}))
    else:
        console.print(sweep_table(key, points))
    if args.plot is not None:
        from .plot import draw_sweep

        draw_sweep(key, points, args.plot)


def _check_plot(path: Path, sweep: str) -> None:
    """Before the simulations and not after them. Raises: UserError."""
    if not sweep:
        raise UserError(f"--plot {path}: it draws a sweep; expected --sweep KEY=A..B as well")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UserError(f"--plot {path}: expected the name of a .png file in a folder that exists")
    if find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install matplotlib")


def _record(given: Planned, best: Planned | None, fits: Sequence[RunFit]) -> JsonObject:
    record = planned_record(given)
    if best is not None:
        record["best"] = planned_record(best)
    if fits:
        record["calibrated_on"] = [asdict(fit) | {"error": fit.error} for fit in fits]
    return record
