"""The numbers of metrics.jsonl as columns that a page can hold, and the events of the run that curves are marked with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...common.config.algorithm import StageConfig
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord
from ...common.types import ValidationSetting
from ..summary import by_domain

MAX_POINTS = 2_000  # of a curve; the steps of a longer run are put together
MAX_NAMES = 500  # of metrics; of thousands of actors, each has some
DIGITS = 5  # that numbers are rounded to
RESET, ALERT, ANSWER = "reference/reset_", "alert/", "alert/answer_"
# numbers of a step that are faults where they are above 0, in words
FAULTS = {
    "learner/skipped": "updates were skipped, because they were not finite",
    "policy/non_finite": "losses or gradients were not finite",
    "weights/failed": "actors did not get the weights in time",
    "buffer/failed_publishes": "broadcasts of weights failed",
    "buffer/failed_pulls": "pulls of weights failed",
    "buffer/lost_leases": "leases were lost: an actor died, or was silent for too long",
    "buffer/failed_groups": "groups failed",
    "buffer/evicted": "groups were dropped, because they were too old",
    "actor/none_verdicts": "verdicts without a reward",
    "actor/dropped_rollouts": "rollouts were dropped, because they could not be judged",
    "validation/skipped_sweeps": "validation sweeps were left out",
}
STARTED = re.compile(r"learner at version (\d+) of \d+, generation")  # what a learner logs when it begins
# steps with the same fault make one mark if no more steps lie between them, as a share of all
NEAR = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Every metric of a run over its steps. A number stands for a column that never changes, None for a missing value."""

    steps: list[int]
    hours: list[float]  # of the learner's clock, at the end of each step
    names: dict[str, float | list[float | None]]
    left_out: int  # metrics beyond MAX_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMark:
    """Something that happened at a step."""

    step: int
    last_step: int
    kind: str  # reset, stage, alert or fault
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCurve:
    """The scores of the validation sweeps of one setting, by the version that was swept."""

    versions: list[int]
    names: dict[str, list[float | None]]  # "mean", each domain, each domain/task


def columns_of(records: Sequence[MetricsRecord]) -> Columns:
    """Every number of the records but validation scores. Beyond MAX_POINTS steps, a point is the mean of several."""
    own = ("step", "version", "wall_s")
    found = dict.fromkeys(name for record in records for name in record if not name.startswith("validation/"))
    names = [name for name in found if name not in own]
    parts = np.array_split(np.arange(len(records)), min(len(records), MAX_POINTS)) if records else []
    starts = [int(part[0]) for part in parts]
    columns = {name: _column(name, records, starts) for name in names[:MAX_NAMES]}
    ends = [records[int(part[-1])] for part in parts]
    return Columns(
        steps=[int(record["step"]) for record in ends],
        hours=[_rounded((record.get("wall_s") or 0.0) / 3600) for record in ends],
        names=columns,
        left_out=max(0, len(names) - MAX_NAMES),
    )


def _column(name: str, records: Sequence[MetricsRecord], starts: list[int]) -> float | list[float | None]:
    values = np.array([np.nan if (value := record.get(name)) is None else value for record in records], dtype=np.float64)
    if len(starts) < len(values):
        values = _put_together(name, values, starts)
    rounded = [None if np.isnan(value) else _rounded(float(value)) for value in values]
    first = rounded[0]
    return first if first is not None and all(value == first for value in rounded) else rounded


def _put_together(name: str, values: np.ndarray, starts: list[int]) -> np.ndarray:
    """The largest value of each part for names that say so, else the mean; [parts] float64."""
    known = ~np.isnan(values)
    if "_max" in name:
        return np.where(
            np.logical_or.reduceat(known, starts), np.maximum.reduceat(np.where(known, values, -np.inf), starts), np.nan
        )
    counts = np.add.reduceat(known.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def sweeps_of(records: Sequence[MetricsRecord], summary: JsonObject) -> dict[str, SweepCurve]:
    """Setting -> its sweeps, in order of versions; settings without any are left out.

    The last sweep ends after the last step: of an ended run, only the summary has it (an empty one: the run has not ended).
    """
    found: dict[str, SweepCurve] = {}
    for setting in (ValidationSetting.sampled, ValidationSetting.greedy):
        prefix = f"validation/{setting}/"
        swept: dict[int, dict[str, float | None]] = {}
        for record in records:
            # of two sweeps of a version, the later one counts
            if (version := record.get(f"{prefix}version")) is not None:
                swept[int(version)] = {n.removeprefix(prefix): v for n, v in record.items() if n.startswith(prefix)}
        if (last := summary.get("after", {}).get(setting)) is not None:
            swept[last["version"]] = {"mean": last["mean"], **by_domain(last["by_task"]), **last["by_task"]}
        versions = sorted(swept)
        names = dict.fromkeys(name for version in versions for name in swept[version])
        values = {n: [swept[version].get(n) for version in versions] for n in names if n not in ("version", "oldest_version")}
        if versions:
            found[setting.value] = SweepCurve(versions=versions, names=values)
    return found


def marks_of(records: Sequence[MetricsRecord], stages: Sequence[StageConfig]) -> list[RunMark]:
    """Resets, stages, alerts and faults of a run, in order of their steps."""
    marks = [*_resets(records), *_alerts(records), *_stages(records, stages), *_faults(records), *_lost_actors(records)]
    return sorted(marks, key=lambda mark: mark.step)


def _resets(records: Sequence[MetricsRecord]) -> Iterator[RunMark]:
    for record in records:
        for name in record:
            if name.startswith(RESET):
                step, why = int(record["step"]), name.removeprefix(RESET)
                yield RunMark(step=step, last_step=step, kind="reset", words=f"reset of the reference ({why})")


def _alerts(records: Sequence[MetricsRecord]) -> Iterator[RunMark]:
    """A mark for every limit that was passed, with what the learner did."""
    for record in records:
        answers = ", ".join(name.removeprefix(ANSWER) for name in record if name.startswith(ANSWER))
        for name, value in record.items():
            if name.startswith(ALERT) and not name.startswith(ANSWER) and name != "alert/lr_share" and answers:
                step, limit = int(record["step"]), name.removeprefix(ALERT)
                passed = "a number that is not finite" if value is None else f"{value:.4g}"
                words = f"alert: alerts.{limit} was passed by {passed} (answer: {answers})"
                yield RunMark(step=step, last_step=step, kind="alert", words=words)


def _stages(records: Sequence[MetricsRecord], stages: Sequence[StageConfig]) -> Iterator[RunMark]:
    """A mark where a stage begins, and whose last step is the last of that stage."""
    indices = [(int(record["step"]), int(record.get("stage/index") or 0)) for record in records]
    starts = [i for i, (_, index) in enumerate(indices) if i == 0 or indices[i - 1][1] != index]
    if not stages:
        return
    for begin, end in pairwise([*starts, len(indices)]):
        step, index = indices[begin]
        name = stages[index].name if 0 <= index < len(stages) else f"stage {index + 1}"
        yield RunMark(step=step, last_step=indices[end - 1][0], kind="stage", words=name)


def _faults(records: Sequence[MetricsRecord]) -> Iterator[RunMark]:
    near = max(1.0, NEAR * len(records))
    for name, words in FAULTS.items():
        hit = [(int(record["step"]), value) for record in records if (value := record.get(name) or 0.0) > 0]
        breaks = [i for i in range(1, len(hit)) if hit[i][0] - hit[i - 1][0] > near]
        for begin, end in pairwise([0, *breaks, len(hit)] if hit else []):
            count = sum(value for _, value in hit[begin:end])
            yield RunMark(step=hit[begin][0], last_step=hit[end - 1][0], kind="fault", words=f"{count:,.0f} {words} ({name})")


def _lost_actors(records: Sequence[MetricsRecord]) -> Iterator[RunMark]:
    for before, after in pairwise(records):
        had, has = before.get("actor/num_actors") or 0.0, after.get("actor/num_actors") or 0.0
        if has < had:
            step = int(after["step"])
            yield RunMark(step=step, last_step=step, kind="fault", words=f"actors went from {had:.0f} to {has:.0f}")


def restarts_of(log: Path) -> list[RunMark]:
    """A mark where a learner started again, from its log, which `prolong train` keeps over all starts; none without one."""
    if not log.is_file():
        return []
    with log.open(encoding="utf-8", errors="replace") as lines:
        versions = [int(found[1]) for line in lines if (found := STARTED.search(line))]
    words = "the learner started again, from version {}"
    return [RunMark(step=v, last_step=v, kind="fault", words=words.format(v)) for v in versions[1:]]
