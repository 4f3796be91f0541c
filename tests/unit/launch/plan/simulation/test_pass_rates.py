"""The share of groups without signal: against drawn rewards, and there and back."""

import numpy as np
import pytest
from prolong.launch.plan.simulation.pass_rates import PassRates


@pytest.mark.parametrize(("mean", "correlation", "n"), [(0.9, 0.4, 16), (0.3, 0.1, 8), (0.5, 0.0, 2), (0.97, 0.6, 4)])
def test_the_share_without_signal_is_that_of_drawn_rewards(mean: float, correlation: float, n: int) -> None:
    rng = np.random.default_rng(0)
    total = 1 / correlation - 1 if correlation else 1e9
    rates = rng.beta(mean * total, (1 - mean) * total, 200_000)
    right = rng.binomial(n, rates)
    assert PassRates(mean, correlation).no_signal(n) == pytest.approx(np.mean((right == 0) | (right == n)), abs=0.004)


def test_what_was_seen_with_one_n_tells_the_share_with_another() -> None:
    true = PassRates(0.85, 0.35)
    found = PassRates.fit(0.85, true.no_signal(16), 16)
    assert found.no_signal(8) == pytest.approx(true.no_signal(8), abs=1e-6)


def test_prompts_that_are_always_right_or_always_wrong_give_no_signal() -> None:
    assert PassRates(0.4, 1.0).no_signal(8) == pytest.approx(1.0, abs=0.01)
    assert PassRates(0.4, 1e-310).no_signal(8) == pytest.approx(0.4**8 + 0.6**8)


def test_fewer_groups_without_signal_than_chance_gives_prompts_that_are_alike() -> None:
    assert PassRates.fit(0.5, 0.0, 16).correlation == pytest.approx(0.0, abs=1e-6)
