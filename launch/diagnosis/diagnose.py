"""A diagnosis of one run: functions of the records in its folder, which is only read.

config.yaml, metrics.jsonl, summary.json, journal --> time_split.py (sides), roof.py (what binds), findings.py (rules)
                              the same --planner--> moves.py (what would gain how much)           --> Diagnosis
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..plan.calibrate import shared_cores
from .diagnosis import Diagnosis
from .findings import find_all
from .moves import Prediction, predict_moves, within_reach
from .roof import binding_roof
from .run_records import read_run, total
from .time_split import sides_of


def diagnose(folder: Path, *, predicts: bool = True, cores: float | None = None) -> Diagnosis:
    """What can be said of the run in this folder, live or ended. Raises: UserError, ConfigError.

    predicts: simulate what changes would gain, which takes seconds to a minute.
    cores: that all its processes share; None: those of this machine if it was made on a CPU, 0: each process has its own.
    """
    run = read_run(folder)
    shared = shared_cores(run.cfg) if cores is None else cores
    prediction = predict_moves(folder, shared) if predicts else Prediction(why_none="nothing was simulated")
    roof = binding_roof(run, shared)
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
