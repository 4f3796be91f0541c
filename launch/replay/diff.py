"""`prolong diff`: the settings in which two runs differ, and the first step at which they do.

    config.yaml -> journal/ (batches, in) -> metrics.jsonl (numbers, out) -> checkpoints/ (weights, out)

The parts of one step are compared in that order, as far as both runs recorded them. Both runs are only read; they may be live.
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

from ...buffer.journal.journal import Journal, read_journal
from ...common.config.run_files import RunPaths, find_checkpoints
from ...common.errors import ProlongError, UserError
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord
from ..status import find_run
from .comparison import (
    Difference,
    compare_batches,
    compare_checkpoints,
    compare_records,
    fingerprint,
    flatten,
    read_steps,
    unrecorded,
)

# settings that say where a run is, not what it does
PLACES = ("run.name", "run.root", "buffer.address", "buffer.keys", "weights.host")
TIMED = ("actor/", "buffer/", "weights/")  # metrics that depend on how fast the processes run
MAX_SETTINGS_SHOWN = 12


@dataclass(slots=True, kw_only=True)
class Recording:
    """The files that a run left."""

    paths: RunPaths
    settings: JsonObject  # dotted key -> value; empty without a config.yaml
    journal: Journal | None
    versions: frozenset[int]  # of the recorded batches
    records: dict[int, MetricsRecord]  # by step
    checkpoints: dict[int, Path]  # by version


@dataclass(slots=True, kw_only=True)
class Comparison:
    """The result for two runs. `num_*` count what both recorded."""

    settings: dict[str, tuple[Any, Any]]
    first: Difference | None
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
    return 1 if found.settings or found.first else 0


@contextlib.contextmanager
def _opened(paths: RunPaths) -> Iterator[Recording]:
    # read_journal raises for a run without a journal, which can still be compared
    journal = read_journal(paths.journal) if (paths.journal / "data.mdb").is_file() else None
    try:
        versions = frozenset(journal.versions() if journal else [])
        yield Recording(
            paths=paths,
            settings=read_settings(paths),
            journal=journal,
            versions=versions,
            records=read_steps(paths),
            checkpoints=find_checkpoints(paths.checkpoints),
        )
    finally:
        if journal is not None:
            journal.close()


def read_settings(paths: RunPaths) -> JsonObject:
    """The settings in config.yaml, without PLACES; RUN stands for the folder of the run in values.

    The file is not checked: another version of prolong may have written it. Raises: UserError when it is not YAML.
    """
    if not paths.config.is_file():
        return {}
    try:
        tree = yaml.safe_load(paths.config.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{paths.config} cannot be read: {error}") from error
    folder = str(paths.folder)
    known = {name: value.replace(folder, "RUN") if isinstance(value, str) else value for name, value in flatten(tree)}
    return {name: value for name, value in known.items() if name not in PLACES}


def compare_runs(left: Recording, right: Recording) -> Comparison:
    """Compare settings and all common steps. Raises: UserError when the runs recorded nothing in common."""
    names = left.settings | right.settings if left.settings and right.settings else {}
    values = {name: (left.settings.get(name), right.settings.get(name)) for name in names}
    found = Comparison(
        settings={name: pair for name, pair in values.items() if pair[0] != pair[1]},
        first=first_difference(left, right),
        num_batches=len(left.versions & right.versions),
        num_records=len(left.records.keys() & right.records.keys()),
        num_checkpoints=len(left.checkpoints.keys() & right.checkpoints.keys()),
    )
    if not names and not found.num_batches + found.num_records + found.num_checkpoints:
        raise UserError(f"{left.paths.folder} and {right.paths.folder} recorded nothing in common: there is nothing to compare")
    return found


def first_difference(left: Recording, right: Recording) -> Difference | None:
    """The first difference, step by step: in the batch, then in the results."""
    steps = {version + 1 for version in left.versions & right.versions}
    steps |= left.records.keys() & right.records.keys()
    steps |= left.checkpoints.keys() & right.checkpoints.keys()
    for step in sorted(steps):
        found = _compare_step(left, right, step)
        if found is not None:
            return found
    return None


def _compare_step(left: Recording, right: Recording, step: int) -> Difference | None:
    """The first difference in batch, record and checkpoint of a step, of each only if both runs have it.

    A live run may drop a batch or a checkpoint meanwhile.
    """
    found = None
    if left.journal and right.journal and step - 1 in left.versions & right.versions:
        ours, theirs = left.journal.batch(step - 1), right.journal.batch(step - 1)
        found = compare_batches(ours, theirs) if ours and theirs else None
    if found is None and step in left.records and step in right.records:
        one, other = left.records[step], right.records[step]
        found = compare_records(one, other, TIMED + unrecorded(one) + unrecorded(other))
    if found is None and step in left.checkpoints and step in right.checkpoints:
        one, other = fingerprint(step, left.checkpoints[step]), fingerprint(step, right.checkpoints[step])
        found = compare_checkpoints(one, other) if one and other else None
    return found


def _tree(pair: list[Recording], found: Comparison) -> JsonObject:
    return {
        "runs": [str(each.paths.folder) for each in pair],
        "same": not found.settings and found.first is None,
        "settings": found.settings,
        "difference": None if found.first is None else found.first.tree(),
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
    if found.first is None:
        yield f"all steps that both recorded are the same: {both}"
        return
    yield found.first.sentence()
    if found.first.rounding:
        yield "only the last bits of a number differ, as between kinds of processors or numbers of threads"
    yield f"until step {found.first.step - 1} everything that both recorded is the same (of {both} in all)"
