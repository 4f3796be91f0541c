"""Values and gradients against a naive oracle, token by token, in float64."""

import math

import pytest
import torch
from prolong.common.config import Correction
from prolong.learner.objective import policy_loss

LOW, HIGH, C = 0.2, 0.4, 2.0


def naive(t: float, p: float, b: float, a: float, correction: Correction) -> tuple[float, float]:
    """(loss, d loss / d t) of one token, by cases."""
    ratio = math.exp(t - b) if correction is Correction.bypass else math.exp(t - p)
    weight = 1.0 if correction is Correction.bypass else min(math.exp(p - b), C)
    if a > 0 and ratio > 1 + HIGH:
        return weight * -a * (1 + HIGH), 0.0
    if a < 0 and ratio < 1 - LOW:
        return weight * -a * (1 - LOW), 0.0
    return weight * -a * ratio, weight * -a * ratio


@pytest.mark.parametrize("correction", list(Correction))
def test_loss_and_gradient_equal_the_case_by_case_oracle(correction: Correction) -> None:
    generator = torch.Generator().manual_seed(0)
    policy, proximal, behaviour, advantage = torch.randn(4, 500, dtype=torch.float64, generator=generator)
    policy.requires_grad_()
    terms = policy_loss(
        policy, proximal, behaviour, advantage, clip_low=LOW, clip_high=HIGH, correction=correction, truncation=C
    )
    terms.loss.sum().backward()
    oracle = [naive(*row, correction) for row in torch.stack((policy, proximal, behaviour, advantage), 1).tolist()]
    assert terms.loss.tolist() == pytest.approx([loss for loss, _ in oracle], rel=1e-12)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([slope for _, slope in oracle], rel=1e-12)
    clipped = sum(slope == 0.0 for _, slope in oracle)
    assert 50 < clipped < 450
    assert int((terms.clipped_low | terms.clipped_high).sum()) == clipped


def test_on_policy_gradient_is_the_plain_policy_gradient() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    terms = policy_loss(
        policy, policy, policy, advantage, clip_low=LOW, clip_high=HIGH, correction=Correction.decoupled, truncation=C
    )
    terms.loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == [-1.0, 2.0, -0.5]


def test_truncation_bounds_the_behaviour_weight_and_reports_it_untruncated() -> None:
    zeros = torch.zeros(2, dtype=torch.float64)
    behaviour = torch.tensor([-5.0, -0.1], dtype=torch.float64)
    terms = policy_loss(
        zeros,
        zeros,
        behaviour,
        -torch.ones(2).double(),
        clip_low=LOW,
        clip_high=HIGH,
        correction=Correction.decoupled,
        truncation=C,
    )
    assert terms.loss.tolist() == pytest.approx([2.0, math.exp(0.1)])
    assert terms.weight.tolist() == pytest.approx([math.exp(5.0), math.exp(0.1)])


@pytest.mark.parametrize("broken", [float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("correction", list(Correction))
def test_non_finite_log_ratios_count_as_zero(broken: float, correction: Correction) -> None:
    policy = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([broken, -1.0], dtype=torch.float64)
    terms = policy_loss(
        policy,
        policy.detach(),
        behaviour,
        torch.ones(2).double(),
        clip_low=LOW,
        clip_high=HIGH,
        correction=correction,
        truncation=C,
    )
    terms.loss.sum().backward()
    assert terms.loss.tolist() == [-1.0, -1.0]
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
