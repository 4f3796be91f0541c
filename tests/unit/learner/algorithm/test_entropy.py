import math

import pytest
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.learner.algorithm.objective import next_entropy_coefficient

CFG = ObjectiveConfig(entropy_target=0.3, entropy_rate=0.01, entropy_max=0.004)


def test_the_coefficient_grows_below_the_target_and_shrinks_above_in_proportion() -> None:
    assert next_entropy_coefficient(0.002, 0.2, CFG) == pytest.approx(0.003)
    assert next_entropy_coefficient(0.002, 0.35, CFG) == pytest.approx(0.0015)
    assert next_entropy_coefficient(0.002, 0.3, CFG) == 0.002


def test_the_coefficient_stays_between_zero_and_its_maximum() -> None:
    assert next_entropy_coefficient(0.0035, 0.0, CFG) == 0.004
    assert next_entropy_coefficient(0.001, 5.0, CFG) == 0.0


def test_without_a_target_there_is_no_bonus() -> None:
    assert next_entropy_coefficient(0.004, 0.01, ObjectiveConfig()) == 0.0


@pytest.mark.parametrize("entropy", [math.nan, math.inf, -math.inf])
def test_an_entropy_that_is_not_finite_changes_nothing(entropy: float) -> None:
    assert next_entropy_coefficient(0.002, entropy, CFG) == 0.002


def test_the_controller_finds_the_coefficient_that_holds_the_target() -> None:
    """A policy whose entropy is .2 + 50 times the coefficient is at .3 with .002."""
    coefficient = 0.0
    for _ in range(200):
        coefficient = next_entropy_coefficient(coefficient, 0.2 + 50 * coefficient, CFG)
    assert coefficient == pytest.approx(0.002)
