"""A diagnosis of one run: functions of the records in its folder, which is only read.

config.yaml, metrics.jsonl, summary.json, journal --> time_split.py (sides), roof.py (what binds), findings.py (rules)
                              the same --planner--> moves.py (what would gain how much)           --> Diagnosis
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .diagnosis import Diagnosis
from .findings import find_all
from .moves import Prediction, predict_moves, within_reach
from .roof import binding_roof
from .run_records import RunRecords, read_run, total
from .time_split import sides_of


def diagnose(folder: Path, *, predicts: bool = True, cores: float | None = None) -> Diagnosis:
    """What can be said of the run in this folder, live or ended. Raises: UserError, ConfigError.

    predicts: simulate what changes would gain, which takes seconds to a minute. cores: see `predict_moves`.
    """
    prediction = predict_moves(folder, cores) if predicts else Prediction(why_none="nothing was simulated")
    return diagnose_records(read_run(folder), prediction)


def diagnose_records(run: RunRecords, prediction: Prediction) -> Diagnosis:
    """The same of records that are read, with the planner's word on them."""
    roof = binding_roof(run)
    return Diagnosis(
        run=run.name,
        steps=len(run.records),
        wall_s=total(run.records, "learner/step_s"),
        steps_per_s=run.steps_per_s,
        sides=sides_of(run),
        roof=None if roof is None else replace(roof, roofs=prediction.roofs),
        moves=prediction.moves if roof is None else within_reach(prediction.moves, roof.shares["learner"]),
        no_moves=prediction.why_none,
        simulated_steps_per_s=prediction.simulated_steps_per_s,
        simulated_part=prediction.simulated_part,
        findings=find_all(run),
    )
