"""The records of a run as diagnosis reads them: settings, a line of metrics per step, the summary, some groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from ...common.config.run_files import RunPaths, load_config
from ...common.config.sections import Config
from ...common.errors import JournalError, UserError
from ...common.json_object import JsonObject
from ...common.metrics import MetricsRecord, read_metrics
from ...common.types import Group
from ..plan.recorded import some_groups
from ..plan.simulation.result import WARM_UP
from ..summary import read_summary

MAX_GROUPS = 200  # of the journal that are read, spread evenly over what it holds
LEAST_MEASURED = 5  # steps that remain when start and end are left out; a shorter run is measured whole


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecords:
    """What a folder says of a run, live or ended."""

    name: str
    cfg: Config
    records: list[MetricsRecord]  # one per step
    summary: JsonObject = field(default_factory=dict)  # empty while it runs
    groups: list[Group] = field(default_factory=list)  # some of those that the journal holds, in the order of their tickets

    @property
    def measured(self) -> list[MetricsRecord]:
        """The steps after the start and before the last ones, in which tickets are no longer issued."""
        first = max(int(len(self.records) * WARM_UP), 1)
        last = len(self.records) - self.cfg.buffer.eta
        found = self.records[first:last]
        return found if len(found) >= LEAST_MEASURED else self.records

    @property
    def steps_per_s(self) -> float:
        """Of the measured steps; 0 without any."""
        seconds = total(self.measured, "learner/step_s")
        return len(self.measured) / seconds if seconds > 0 else 0.0


def read_run(folder: Path) -> RunRecords:
    """The records in a run's folder. Raises: UserError when it has no metrics or no settings, ConfigError.

    A journal that is missing, or cannot be read, is left out: the buffer may have another disk.
    """
    paths = RunPaths(folder)
    if not paths.metrics.is_file() or not paths.config.is_file():
        raise UserError(f"{folder}: expected the folder of a run, with config.yaml and metrics.jsonl in it")
    try:
        groups = some_groups(paths.journal, MAX_GROUPS)
    except JournalError:
        groups = []
    return RunRecords(
        name=folder.resolve().name,
        cfg=load_config(paths.config),
        records=read_metrics(paths.metrics, exact=False),
        summary=read_summary(paths.summary) if paths.summary.is_file() else {},
        groups=groups,
    )


def total(records: Sequence[MetricsRecord], name: str) -> float:
    """The sum of a metric; steps without it, or with a number that is not finite, count 0."""
    return sum(record.get(name) or 0.0 for record in records)


def mean(records: Sequence[MetricsRecord], name: str) -> float:
    """The mean over the steps that have it; 0 without any."""
    values = [record[name] for record in records if record.get(name) is not None]
    return fmean(values) if values else 0.0


def cores_had(records: Sequence[MetricsRecord]) -> float:
    """The cores that the learner and an actor had while they worked, on average: CPU seconds by seconds; 0: not recorded."""
    cpu_s = total(records, "learner/cpu_s") + total(records, "actor/cpu_s") - total(records, "actor/helper_cpu_s")
    worked_s = total(records, "learner/compute_s") + total(records, "actor/busy_s")
    return cpu_s / worked_s if worked_s > 0 else 0.0
