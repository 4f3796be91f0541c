"""A run of real processes whose verifier is slow, from its start to the diagnosis that names it."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from prolong.bench.starved import ENGINE, STARVED, run_sleeping
from prolong.common.metrics import read_metrics
from prolong.launch.diagnosis.diagnose import diagnose


@pytest.mark.slow
def test_the_verdict_on_a_run_with_a_slow_verifier_names_it_and_its_seconds_add_up(tmp_path: Path) -> None:
    engine = msgspec.structs.replace(ENGINE, step_base_s=0.004, step_per_rollout_s=0.0)
    folder = run_sleeping(tmp_path / "run", replace(STARVED["verifiers"], engine=engine, verdict_s=0.02), steps=14)
    said = diagnose(folder, cores=0.0)
    assert said.roof is not None
    assert said.roof.part == "verifiers"
    assert said.no_moves == ""
    best = next(move for move in said.moves if move.settings == ("verifiers.workers=2",))
    assert best.gain > 1.3
    for side in said.sides:
        assert sum(part.seconds for part in side.spent) == pytest.approx(side.total_s)
    # CPU seconds are those of each step, and a learner that sleeps has few
    assert all(record["learner/cpu_s"] < record["learner/step_s"] for record in read_metrics(folder / "metrics.jsonl"))
    # every group was recorded, and is one that a learner can train
    assert said.steps == 14
