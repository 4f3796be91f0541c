"""A diagnosis of one run: pure functions of the records in its folder.

config.yaml, metrics.jsonl, summary.json, journal --> time_split.py (sides), roof.py (what binds) --> Diagnosis
"""

from __future__ import annotations

from pathlib import Path

from .diagnosis import Diagnosis
from .roof import binding_roof
from .run_records import RunRecords, read_run, total
from .time_split import sides_of


def diagnose(folder: Path) -> Diagnosis:
    """What can be said of the run in this folder, live or ended. Raises: UserError, ConfigError."""
    return diagnose_records(read_run(folder))


def diagnose_records(run: RunRecords) -> Diagnosis:
    """The same of records that are read."""
    return Diagnosis(
        run=run.name,
        steps=len(run.records),
        wall_s=total(run.records, "learner/step_s"),
        steps_per_s=run.steps_per_s,
        sides=sides_of(run),
        roof=binding_roof(run),
        moves=(),
        no_moves="no gain was predicted",
        simulated_steps_per_s=0.0,
        findings=(),
    )
