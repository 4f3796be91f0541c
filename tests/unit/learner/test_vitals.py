"""When a learner counts as stuck, and what its endpoint and its trace tell of its steps."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from prolong.common.monitoring import vitals as common
from prolong.common.monitoring.vitals import Vitals
from prolong.common.trace import Tracer, TraceSpan
from prolong.learner import vitals as own
from prolong.learner.vitals import LearnerVitals

from tests.support.hand_clock import HandClock

STARVE_S = 100.0
RECORD = {"learner/wait_s": 1.5, "learner/step_s": 4.0, "learner/tokens": 1000.0, "reward/math": 0.5, "policy/ess": 0.98}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return HandClock.of(monkeypatch, common, own)


def test_a_step_may_take_twenty_times_the_longest_one_before_it_counts_as_stuck(clock: HandClock) -> None:
    vitals = Vitals("learner", "learner", "mine")
    told = LearnerVitals(vitals, STARVE_S)
    # loading the model is no step
    clock.now += 300.0
    told.waits(0)
    clock.now += STARVE_S + 1
    assert vitals.health().alive, "it waits for others, and ends by itself when that takes too long"
    told.trains(0)
    clock.now += 30.0
    told.waits(1)
    told.trains(1)
    clock.now += 590.0
    assert vitals.health().alive
    clock.now += 20.0
    assert not vitals.health().alive
    assert vitals.health().state == "trains the batch of version 1"
    told.waits(2)
    assert vitals.health().alive


def test_seconds_are_added_up_and_the_last_sweep_stands_until_the_next() -> None:
    vitals = Vitals("learner", "learner", "mine", watched=True)
    told = LearnerVitals(vitals, STARVE_S)
    told.trains(0)
    told.recorded(1, RECORD | {"validation/sampled/mean": 0.25, "learner/loss": float("nan")})
    told.trains(1)
    told.recorded(2, RECORD)
    found = {(metric.full_name, *metric.labels.values()): metric.value for metric in vitals.metrics()}
    assert found["prolong_learner_seconds_total", "wait"] == 3.0
    assert found["prolong_learner_seconds_total", "step"] == 8.0
    assert (found["prolong_learner_steps_total",], found["prolong_learner_tokens_total",]) == (2.0, 2000.0)
    assert found["prolong_learner_version",] == 2.0
    assert found["prolong_step_reward_domain", "math"] == 0.5
    assert found["prolong_step_validation_mean", "sampled"] == 0.25
    assert ("prolong_step_learner_loss",) not in found


def test_a_step_is_a_span_with_a_few_of_its_numbers(tmp_path: Path, clock: HandClock) -> None:
    tracer = Tracer(tmp_path, "learner", "learner")
    told = LearnerVitals(Vitals("learner", "learner", "mine", tracer=tracer), STARVE_S)
    told.trains(6)
    clock.now += 2.5
    told.recorded(7, RECORD)
    tracer.close()
    [path] = tmp_path.iterdir()
    span = msgspec.json.decode(path.read_bytes().splitlines()[1], type=TraceSpan)
    assert (span.name, span.at, span.s) == ("step", 1000.0, 2.5)
    assert span.args == {"version": 7, "tokens": 1000.0, "ess": 0.98}


def test_a_step_whose_numbers_are_not_finite_is_in_the_trace(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "learner", "learner")
    told = LearnerVitals(Vitals("learner", "learner", "mine", tracer=tracer), STARVE_S)
    told.trains(6)
    told.recorded(7, RECORD | {"policy/ess": float("nan"), "reward/mean": float("inf")})
    tracer.close()
    [path] = tmp_path.iterdir()
    span = msgspec.json.decode(path.read_bytes().splitlines()[1], type=TraceSpan)
    assert span.args == {"version": 7, "tokens": 1000.0}
