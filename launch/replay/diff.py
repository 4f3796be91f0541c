"""`prolong diff`: the settings that two runs do not share, and the first step where they part.

    config.yaml -> journal/ (batches, in) -> metrics.jsonl (numbers, out) -> checkpoints/ (weights, out)

What belongs to one step is compared in that order, as far as both recorded it. Both runs are only read; they may live.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...buffer.journal.journal import Journal
from ...common.config.run_files import RunPaths
from ...common.errors import ProlongError, UserError
from ...common.metrics import Record
from ..status import find_run
from .compare import (
    Difference,
    compare_checkpoints,
    compare_records,
    find_checkpoints,
    fingerprint,
    flatten,
    open_history,
    read_steps,
)
from .compare_batches import compare_batches

# say where a run is, not what it does
PLACES = ("run.name", "run.root", "buffer.address", "buffer.keys", "weights.host")
SIDE_BY_SIDE = ("actor/", "buffer/", "weights/")  # depends on how fast processes run beside each other
MAX_SETTINGS_SHOWN = 12  # settings that are printed


@dataclass(slots=True, kw_only=True)
class Recording:
    """What a run left."""

    paths: RunPaths
    settings: dict[str, Any]  # dotted key -> value; empty without a config.yaml
    history: Journal | None
    versions: frozenset[int]  # of the recorded batches
    records: dict[int, Record]  # by step
    checkpoints: dict[int, Path]  # by version


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Of two runs. `num_*` count what both recorded."""

    settings: dict[str, tuple[Any, Any]]
    parting: Difference | None
    num_batches: int
    num_records: int
    num_checkpoints: int


def show_diff(left: str, right: str, *, as_json: bool) -> int:
    """Compare and print; 0 when all that both recorded is the same, else 1. Raises: UserError when they cannot be compared."""
    try:
        with contextlib.ExitStack() as stack:
            pair = [stack.enter_context(_opened(find_run(name))) for name in (left, right)]
            found = compare_runs(*pair)
    except (ProlongError, OSError) as error:
        raise UserError(str(error)) from error
    text = json.dumps(_tree(pair, found)) if as_json else "\n".join(_page(pair, found))
    sys.stdout.write(text + "\n")
    return 1 if found.settings or found.parting else 0


@contextlib.contextmanager
def _opened(paths: RunPaths) -> Iterator[Recording]:
    history = open_history(paths)
    try:
        versions = frozenset(history.versions() if history else [])
        yield Recording(
            paths=paths,
            settings=read_settings(paths),
            history=history,
            versions=versions,
            records=read_steps(paths),
            checkpoints=find_checkpoints(paths.checkpoints),
        )
    finally:
        if history is not None:
            history.close()


def read_settings(paths: RunPaths) -> dict[str, Any]:
    """What config.yaml says, without places; the run's own folder in a value is called RUN. Read as it is: it may be of another
    version of prolong. Raises: UserError.
    """
    if not paths.config.is_file():
        return {}
    try:
        tree = yaml.safe_load(paths.config.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{paths.config} cannot be read: {error}") from error
    own = str(paths.folder)
    known = {name: value.replace(own, "RUN") if isinstance(value, str) else value for name, value in flatten(tree)}
    return {name: value for name, value in known.items() if name not in PLACES}


def compare_runs(left: Recording, right: Recording) -> Comparison:
    """Raises: UserError when there is nothing that both recorded."""
    names = left.settings | right.settings if left.settings and right.settings else {}
    values = {name: (left.settings.get(name), right.settings.get(name)) for name in names}
    found = Comparison(
        settings={name: pair for name, pair in values.items() if pair[0] != pair[1]},
        parting=first_difference(left, right),
        num_batches=len(left.versions & right.versions),
        num_records=len(left.records.keys() & right.records.keys()),
        num_checkpoints=len(left.checkpoints.keys() & right.checkpoints.keys()),
    )
    if not names and not found.num_batches + found.num_records + found.num_checkpoints:
        raise UserError(f"{left.paths.folder} and {right.paths.folder} recorded nothing in common: there is nothing to compare")
    return found


def first_difference(left: Recording, right: Recording) -> Difference | None:
    """Step by step: what went in, then what came out."""
    steps = {version + 1 for version in left.versions & right.versions}
    steps |= left.records.keys() & right.records.keys()
    steps |= left.checkpoints.keys() & right.checkpoints.keys()
    for step in sorted(steps):
        found = _compare_step(left, right, step)
        if found is not None:
            return found
    return None


def _compare_step(left: Recording, right: Recording, step: int) -> Difference | None:
    """Of the batch, the record and the checkpoint of a step; of each only what both have. A run that lives may drop its part
    meanwhile.
    """
    found = None
    if left.history and right.history and step - 1 in left.versions & right.versions:
        ours, theirs = left.history.batch(step - 1), right.history.batch(step - 1)
        found = compare_batches(ours, theirs) if ours and theirs else None
    if found is None and step in left.records and step in right.records:
        found = compare_records(left.records[step], right.records[step], SIDE_BY_SIDE)
    if found is None and step in left.checkpoints and step in right.checkpoints:
        one, other = fingerprint(step, left.checkpoints[step]), fingerprint(step, right.checkpoints[step])
        found = compare_checkpoints(one, other) if one and other else None
    return found


def _tree(pair: list[Recording], found: Comparison) -> dict[str, Any]:
    return {
        "runs": [str(each.paths.folder) for each in pair],
        "same": not found.settings and found.parting is None,
        "settings": found.settings,
        "difference": found.parting and found.parting.tree(),
        "batches": found.num_batches,
        "records": found.num_records,
        "checkpoints": found.num_checkpoints,
    }


def _page(pair: list[Recording], found: Comparison) -> Iterator[str]:
    for name, each in zip("AB", pair, strict=True):
        batches = f"batches of versions {min(each.versions)} to {max(each.versions)}" if each.versions else "no batches"
        steps = max(each.records, default=0)
        yield f"{name}  {each.paths.folder}: {steps} steps, {batches}, {len(each.checkpoints)} checkpoints"
    if not all(each.settings for each in pair):
        yield "settings: not compared, one of them has no config.yaml"
    elif not found.settings:
        yield "settings: the same"
    else:
        yield f"settings: {len(found.settings)} differ"
        yield from (
            f"  {name}: {left} against {right}" for name, (left, right) in list(found.settings.items())[:MAX_SETTINGS_SHOWN]
        )
        if len(found.settings) > MAX_SETTINGS_SHOWN:
            yield f"  and {len(found.settings) - MAX_SETTINGS_SHOWN} more (--json lists all)"
    both = f"{found.num_batches} batches, {found.num_records} records of metrics, {found.num_checkpoints} checkpoints"
    if found.parting is None:
        yield f"all steps that both recorded are the same: {both}"
        return
    yield found.parting.sentence()
    if found.parting.rounding:
        yield "these are the last bits of a number, as another kind of processor or number of threads gives them"
    yield f"until step {found.parting.step - 1} everything that both recorded is the same (of {both} in all)"
