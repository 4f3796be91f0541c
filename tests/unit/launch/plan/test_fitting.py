"""Lines through noisy sums."""

import numpy as np
import pytest
from prolong.launch.plan.fitting import fit_two


def test_a_line_is_found_although_some_stretches_are_disturbed() -> None:
    rng = np.random.default_rng(0)
    steps, running = rng.uniform(200, 800, 30), rng.uniform(20_000, 60_000, 30)
    seconds = 2e-3 * steps + 8e-5 * running
    seconds[:3] *= 3
    base_s, per_rollout_s = fit_two(list(zip(steps, running, seconds, strict=True)))
    assert base_s == pytest.approx(2e-3, rel=0.02)
    assert per_rollout_s == pytest.approx(8e-5, rel=0.02)


@pytest.mark.parametrize("tokens", [1e3, 1e6, 1e9])
def test_shares_do_not_depend_on_how_large_the_numbers_are(tokens: float) -> None:
    # five steps of a learner, and millions of tokens in them
    rng = np.random.default_rng(0)
    rows = [(5.0, share * tokens, 2 * 5 + 5 * share) for share in rng.uniform(0.5, 1.5, 12)]
    base_s, per_token_s = fit_two(rows)
    assert base_s == pytest.approx(2.0, rel=0.03)
    assert per_token_s * tokens == pytest.approx(5.0, rel=0.05)


def test_no_number_is_below_zero() -> None:
    # the first column explains nothing, and its best share alone would be negative
    rows = [(1.0, x, 3 * x - 0.5) for x in (1.0, 2.0, 3.0, 4.0)]
    base, slope = fit_two(rows)
    assert base == 0.0
    assert slope == pytest.approx(2.8, abs=0.15)


def test_columns_that_are_multiples_of_one_another_take_their_halves() -> None:
    first, second = fit_two([(x, 2 * x, 4 * x) for x in (1.0, 2.0, 3.0)])
    assert (first, 2 * second) == pytest.approx((2.0, 2.0))


def test_noise_does_not_give_everything_to_one_of_two_columns_that_are_alike() -> None:
    # rollouts in a step from 70 to 90: noise of a tenth would say that they cost nothing
    steps, running = np.full(9, 100.0), np.linspace(7000, 9000, 9)
    seconds = (4e-3 * steps + 5e-5 * running) * np.linspace(1.07, 0.93, 9)
    base_s, per_rollout_s = fit_two(list(zip(steps, running, seconds, strict=True)))
    assert 2e-3 < base_s < 7e-3
    assert per_rollout_s > 1e-5


def test_nothing_is_fitted_to_nothing() -> None:
    assert fit_two([]) == (0.0, 0.0)
    assert fit_two([(0.0, 0.0, 1.0)]) == (0.0, 0.0)
    assert fit_two([(1.0, 0.0, 2.0), (2.0, 0.0, 4.0)]) == pytest.approx((2.0, 0.0), rel=0.02)
