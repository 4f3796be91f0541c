from __future__ import annotations

import math

import pytest
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss
from prolong.learner.drift import WINDOW, DriftWatch, tolerated_distance


def step(m2: float, *, lag: float = 2.0, ess: float = 0.9, lr: float = 5e-4) -> dict[str, float | None]:
    return {"policy/log_ratio_m2": m2, "policy/lag_mean": lag, "policy/ess": ess, "learner/lr": lr, "policy/loss": None}


def warnings(
    watch: DriftWatch, steps: list[dict[str, float | None]], objective: ObjectiveConfig | None = None
) -> list[tuple[int, str]]:
    objective = objective or ObjectiveConfig(clip_low=0.2)
    return [(index, text) for index, metrics in enumerate(steps) if (text := watch.note(metrics, objective))]


def test_the_clip_is_what_a_synchronous_run_tolerates() -> None:
    assert tolerated_distance(ObjectiveConfig(clip_low=0.2)) == -math.log(0.8)
    m2po = ObjectiveConfig(loss=Loss.m2po, correction=Correction.bypass, second_moment=0.09)
    assert tolerated_distance(m2po) == pytest.approx(0.3)


def test_data_beyond_it_warn_once_with_the_numbers_and_what_would_help() -> None:
    watch = DriftWatch(eta=4, minibatches=2)
    (found,) = warnings(watch, [step(0.16)] * 50)
    index, text = found
    assert index == WINDOW - 1
    assert "0.4 nats (root mean square) from the policy that they train, 0.2 for each of the 2.0 updates that they lag" in text
    assert "(eta up to 4, 2 mini-batches, learning rate 0.0005; effective sample size 0.900)" in text
    assert "At eta = 0 objective.clip_low = 0.2 pushes no token beyond 0.22" in text
    assert "Consider buffer.eta=2, or fewer learner.minibatches, or learner.lr=0.0003, or an eta that adapts" in text


@pytest.mark.parametrize("metrics", [step(0.04), step(0.16, lag=0.0), step(math.nan), {}], ids=["near", "fresh", "nan", "none"])
def test_data_inside_it_fresh_data_and_steps_without_numbers_do_not_warn(metrics: dict[str, float | None]) -> None:
    assert warnings(DriftWatch(eta=4, minibatches=1), [metrics] * 50) == []


def test_single_steps_beyond_it_do_not_warn() -> None:
    steps = [step(1.0 if index % 3 == 0 else 0.01) for index in range(50)]
    assert warnings(DriftWatch(eta=4, minibatches=1), steps) == []


def test_a_stage_with_a_narrower_clip_is_held_to_that() -> None:
    watch = DriftWatch(eta=4, minibatches=1)
    assert warnings(watch, [step(0.04)] * 50) == []
    ((_, text),) = warnings(watch, [step(0.04)] * 2, ObjectiveConfig(clip_low=0.1))
    assert "objective.clip_low = 0.1 pushes no token beyond 0.11" in text


def test_a_synchronous_run_with_mini_batches_is_told_of_those() -> None:
    ((_, text),) = warnings(DriftWatch(eta=0, minibatches=8), [step(0.16, lag=3.5)] * 10)
    assert "Consider fewer learner.minibatches" in text
