"""Intervals of scores: how often they hold the truth, and what they say where all prompts are alike."""

from __future__ import annotations

import numpy as np
import pytest
from prolong.launch.evaluate.intervals import difference, estimate, wilson


def drawn_scores(generator: np.random.Generator, size: int, rollouts: int, shift: float = 0.0) -> np.ndarray:
    """Mean rewards of prompts whose pass rates are Beta(1, 2), moved by `shift` and kept in [0, 1]."""
    rates = np.clip(generator.beta(1.0, 2.0, size) + shift, 0.0, 1.0)
    return generator.binomial(rollouts, rates) / rollouts


@pytest.mark.parametrize(("size", "rollouts"), [(30, 1), (30, 16), (200, 4)])
def test_an_interval_holds_the_true_mean_in_95_of_100_evaluations(size: int, rollouts: int) -> None:
    generator = np.random.default_rng(0)
    found = [estimate([drawn_scores(generator, size, rollouts)]) for _ in range(600)]
    held = np.mean([each.low <= 1 / 3 <= each.high for each in found])
    assert 0.925 <= held <= 0.98


def test_an_interval_of_several_tasks_holds_the_mean_over_tasks() -> None:
    """Every task counts the same, whatever its number of prompts."""
    generator, held = np.random.default_rng(1), []
    for _ in range(400):
        tasks = [drawn_scores(generator, 20, 4), drawn_scores(generator, 300, 4), np.ones(50)]
        found = estimate(tasks)
        held.append(found.low <= (1 / 3 + 1 / 3 + 1) / 3 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.985


def test_a_gain_is_found_by_comparing_prompt_by_prompt() -> None:
    """Prompts differ far more than the models do: intervals of the two scores overlap, that of the difference does not."""
    generator = np.random.default_rng(2)
    rates = generator.uniform(0.05, 0.9, 200)
    first, second = (generator.binomial(16, rates + shift) / 16 for shift in (0.0, 0.05))
    gain = difference([(first, second)])
    assert gain.low > 0
    assert gain.low < 0.05 < gain.high
    assert estimate([first]).high > estimate([second]).low


def test_intervals_of_differences_hold_the_true_one() -> None:
    generator, held = np.random.default_rng(3), []
    for _ in range(300):
        rates = generator.beta(1.0, 2.0, 40)
        first, second = (generator.binomial(8, rates) / 8 for _ in range(2))
        gain = difference([(first, second)])
        held.append(gain.low <= 0 <= gain.high)
    assert 0.915 <= np.mean(held) <= 0.985


def test_prompts_that_are_all_alike_do_not_make_certainty() -> None:
    solved = estimate([[1.0] * 30])
    assert (solved.value, solved.high) == (1.0, 1.0)
    assert solved.low == pytest.approx(wilson(1.0, 30)[0])
    assert 0.85 < solved.low < 0.9
    same = difference([([1.0] * 30, [1.0] * 30)])
    assert same.value == 0
    assert same.low == -same.high < -0.1
    more = difference([([0.0] * 30, [5.0] * 30)])
    assert 4.5 < more.low < more.value == more.high == 5.0, "also where rewards are no shares"


def test_wilson_agrees_with_a_published_table() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20."""
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_rewards_that_are_no_shares_have_an_interval_too() -> None:
    found = estimate([[-1.0, 2.0, 0.5, 0.5]])
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * np.std([-1, 2, 0.5, 0.5]) / 2, abs=1e-4)
