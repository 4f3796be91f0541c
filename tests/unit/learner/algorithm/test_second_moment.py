"""M2PO's cap against a bisection over loops; which tokens are averaged over is pinned by numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss
from prolong.learner.algorithm.api import Tokens
from prolong.learner.algorithm.corrections import log_ratios
from prolong.learner.algorithm.losses.second_moment import SecondMomentClip, second_moment_bounds, second_moment_cap
from prolong.learner.algorithm.objective import policy_loss

BUDGET = 0.04


def harmful_sizes(log_ratios: list[float], advantages: list[float]) -> list[float]:
    """|log r| of the tokens with A > 0 and r > 1, or A < 0 and r < 1."""
    pairs = zip(log_ratios, advantages, strict=True)
    return [abs(x) for x, a in pairs if (a > 0 and math.exp(x) > 1) or (a < 0 and math.exp(x) < 1)]


def capped_mean(sizes: list[float], cap: float) -> float:
    return sum(min(size, cap) ** 2 for size in sizes) / len(sizes)


def naive_cap(sizes: list[float], budget: float) -> float:
    if not sizes or capped_mean(sizes, math.inf) <= budget:
        return max(sizes, default=0.0)
    low, high = 0.0, max(sizes)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if capped_mean(sizes, middle) <= budget else (low, middle)
    return low


def cap_of(log_ratios: list[float], advantages: list[float], budget: float = BUDGET) -> float:
    as_tensor = [torch.tensor(values, dtype=torch.float64) for values in (log_ratios, advantages)]
    return second_moment_cap(*as_tensor, budget=budget)


@given(rows=st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), max_size=40), budget=st.floats(0.001, 2))
def test_the_cap_equals_the_bisection_over_harmful_tokens(rows: list[tuple[float, float]], budget: float) -> None:
    rows = [(x, a) for x, a in rows if abs(x) > 1e-9 and abs(a) > 1e-9]  # exp(1e-20) is not above 1 in a float
    ratios, advantages = [x for x, _ in rows], [a for _, a in rows]
    sizes = harmful_sizes(ratios, advantages)
    cap = cap_of(ratios, advantages, budget)
    assert cap == pytest.approx(naive_cap(sizes, budget), rel=1e-9, abs=1e-9)
    assert not sizes or capped_mean(sizes, cap) <= budget * (1 + 1e-9)


def test_the_mean_is_over_the_harmful_tokens_and_not_over_all() -> None:
    """Harmful are 1.0 and -.1. The other readings of the paper's words would give other caps."""
    ratios, advantages = [1.0, -0.1, -1.0, -0.5, 0.3], [1.0, -1.0, 1.0, 1.0, -1.0]
    assert harmful_sizes(ratios, advantages) == [1.0, 0.1]
    cap = cap_of(ratios, advantages)
    assert cap == pytest.approx(math.sqrt(2 * BUDGET - 0.1**2))
    over_all = naive_cap([abs(x) for x in ratios], BUDGET)
    harmful_sum_over_all = math.sqrt(5 * BUDGET - 0.1**2)
    assert min(abs(cap - over_all), abs(cap - harmful_sum_over_all)) > 0.04


def test_the_largest_tokens_count_at_the_cap_and_are_not_dropped() -> None:
    """Dropping the largest until the rest is within the budget, as AReaL does, would leave .1 as the largest here."""
    ratios = [0.1, 0.1, 0.1, 1.0]
    assert capped_mean(ratios[:3], math.inf) < BUDGET < capped_mean(ratios, math.inf)
    assert cap_of(ratios, [1.0] * 4) == pytest.approx(math.sqrt(4 * BUDGET - 3 * 0.1**2))


def test_within_the_budget_the_largest_harmful_ratio_is_the_bound() -> None:
    ratios = [0.01] * 400 + [-0.8, 1.0]
    bounds = second_moment_bounds(torch.tensor(ratios), torch.tensor([1.0] * 400 + [-1.0, -1.0]), budget=BUDGET)
    assert bounds == pytest.approx((math.exp(-0.8), math.exp(0.8)), rel=1e-6)


def test_bounds_are_the_exponentials_of_the_cap_and_never_tighter_than_the_floor() -> None:
    spread = torch.tensor([0.01] * 9 + [2.0], dtype=torch.float64)
    cap = math.sqrt(10 * BUDGET - 9 * 0.01**2)
    assert second_moment_bounds(spread, torch.ones(10), budget=BUDGET) == pytest.approx((math.exp(-cap), math.exp(cap)))
    tight = torch.ones(10, dtype=torch.float64)  # cap .2
    assert second_moment_bounds(tight, torch.ones(10), budget=BUDGET) == (0.7, 1.5)
    between = torch.tensor([0.38])  # exp(-.38) = .68 is looser than .7, exp(.38) = 1.46 is not looser than 1.5
    assert second_moment_bounds(between, torch.ones(1), budget=1.0) == pytest.approx((math.exp(-0.38), 1.5))


def test_without_harmful_tokens_the_floor_holds() -> None:
    for ratios, advantages in (([1.0, -1.0], [-1.0, 1.0]), ([0.0, 0.5], [1.0, 0.0]), ([], [])):
        assert cap_of(ratios, advantages) == 0.0
        assert second_moment_bounds(torch.tensor(ratios), torch.tensor(advantages), budget=BUDGET) == (0.7, 1.5)


def test_non_finite_log_ratios_count_as_zero() -> None:
    broken = [math.nan, math.inf, -math.inf, 0.3]
    assert cap_of(broken, [1.0, 1.0, -1.0, 1.0], budget=1.0) == pytest.approx(0.3)


def test_under_the_bounds_the_harmful_tokens_that_keep_a_gradient_are_those_within_the_cap() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 300, dtype=torch.float64, generator=generator)
    index = torch.arange(300)
    policy = (-2 + noise[0] + noise[1]).requires_grad_()
    tokens = Tokens(policy, noise[3], -2 + noise[0], noise[2], torch.ones(300), index, 300)
    cfg = ObjectiveConfig(loss=Loss.m2po, correction=Correction.bypass, second_moment=0.3)
    log_ratio = log_ratios(tokens, cfg.correction)[0].detach()
    bounds = second_moment_bounds(log_ratio, tokens.advantage, budget=cfg.second_moment)
    (gradient,) = torch.autograd.grad(policy_loss(tokens, cfg, SecondMomentClip(*bounds)).loss.sum(), policy)
    harmful = log_ratio * tokens.advantage > 0
    capped = log_ratio[harmful].clamp(*(math.log(bound) for bound in bounds))
    assert float(capped.square().mean()) == pytest.approx(0.3, rel=1e-9)
    cap = math.log(bounds[1])
    assert (gradient != 0).tolist() == (~harmful | (log_ratio.abs() < cap)).tolist()
    assert 10 < int((gradient == 0).sum()) < 150
