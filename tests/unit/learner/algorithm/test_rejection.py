"""Rejection of whole rollouts and OPSM, against loops over rollouts; the loss of the other rollouts does not change."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss, Rejection, Weighting
from prolong.learner.algorithm.api import Tokens
from prolong.learner.algorithm.corrections import off_policy_sequence_mask, rejected_rollouts
from prolong.learner.algorithm.ratios import rollout_means, rollout_sums
from torch import Tensor

from tests.support.batches import policy_terms

LENGTHS = (1, 3, 8, 40, 5, 40)
SHIFT = (0.0, 0.01, -0.01, 0.0004, -0.3, -0.0004)  # mean of proximal - behaviour of each rollout
DRIFT = (-0.5, 0.4, -0.05, -0.3, 0.0, -0.2)  # mean of policy - proximal


def scene() -> Tokens:
    """Rollouts of LENGTHS, interleaved, with exact means of their log-ratios."""
    generator = torch.Generator().manual_seed(3)
    rollout = torch.tensor([i for i, length in enumerate(LENGTHS) for _ in range(length)])
    rollout = rollout[torch.randperm(len(rollout), generator=generator)]
    noise = torch.randn(2, len(rollout), dtype=torch.float64, generator=generator) * 0.1
    noise = torch.stack([row - rollout_means(row, rollout, len(LENGTHS))[rollout] for row in noise])
    behaviour = torch.full((len(rollout),), -1.5, dtype=torch.float64)
    proximal = behaviour + noise[0] + torch.tensor(SHIFT, dtype=torch.float64)[rollout]
    policy = proximal + noise[1] + torch.tensor(DRIFT, dtype=torch.float64)[rollout]
    advantage = torch.where(rollout % 2 == 0, -1.0, 0.7).double()
    advantage[rollout == 3] = -0.7
    return Tokens(policy.requires_grad_(), proximal, behaviour, advantage, torch.ones_like(rollout), rollout, len(LENGTHS))


def of_rollout(values: Tensor, tokens: Tokens, which: int) -> list[float]:
    return [value for value, owner in zip(values.tolist(), tokens.rollout.tolist(), strict=True) if owner == which]


def naive_rejected(tokens: Tokens, cfg: ObjectiveConfig) -> list[int]:
    out = []
    for which in range(tokens.num_rollouts):
        differences = of_rollout(tokens.proximal - tokens.behaviour, tokens, which)
        exponent = sum(differences) / (len(differences) if cfg.rejection is Rejection.geometric else 1)
        if not cfg.reject_low <= math.exp(exponent) <= cfg.reject_high:
            out.append(which)
    return out


@pytest.mark.parametrize(
    ("rejection", "low", "high", "expected"),
    [
        (Rejection.geometric, 0.999, 1.002, [1, 2, 4]),
        (Rejection.geometric, 0.0, 1.002, [1]),
        (Rejection.product, 0.999, 1.002, [1, 2, 3, 4, 5]),
        (Rejection.product, 0.97, 1.04, [2, 4]),
    ],
)
@pytest.mark.parametrize("correction", [Correction.decoupled, Correction.bypass])
@pytest.mark.parametrize("loss", [Loss.clip, Loss.cispo, Loss.gspo])
def test_rejected_rollouts_have_no_loss_and_the_others_the_loss_they_had(
    rejection: Rejection, low: float, high: float, expected: list[int], correction: Correction, loss: Loss
) -> None:
    cfg = ObjectiveConfig(rejection=rejection, reject_low=low, reject_high=high, correction=correction, loss=loss)
    tokens = scene()
    assert naive_rejected(tokens, cfg) == expected
    terms, plain = policy_terms(tokens, cfg), policy_terms(tokens, replace(cfg, rejection=Rejection.none))
    out = [owner in expected for owner in tokens.rollout.tolist()]
    assert terms.rejected.tolist() == out
    assert not bool(plain.rejected.any())
    kept = ~torch.tensor(out)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), tokens.policy)
    (plain_gradient,) = torch.autograd.grad(plain.loss.sum(), tokens.policy)
    for ours, before in ((terms.loss, plain.loss), (gradient, plain_gradient)):
        assert ours.tolist() == torch.where(kept, before, torch.zeros_like(before)).tolist()


def naive_opsm(tokens: Tokens, delta: float) -> list[bool]:
    """Per token: A < 0 and mean(old - t) over its rollout > delta."""
    out = []
    for i, owner in enumerate(tokens.rollout.tolist()):
        lost = of_rollout(tokens.behaviour - tokens.policy, tokens, owner)
        out.append(tokens.advantage[i].item() < 0 and sum(lost) / len(lost) > delta)
    return out


@pytest.mark.parametrize("delta", [0.02, 0.25, 0.4, 10.0])
@pytest.mark.parametrize("correction", list(Correction))
def test_opsm_drops_negative_rollouts_that_the_policy_has_left(delta: float, correction: Correction) -> None:
    tokens, cfg = scene(), ObjectiveConfig(opsm_delta=delta, correction=correction)
    terms, plain = policy_terms(tokens, cfg), policy_terms(tokens, replace(cfg, opsm_delta=0.0))
    out = naive_opsm(tokens, delta)
    assert {owner for owner, gone in zip(tokens.rollout.tolist(), out, strict=True) if gone} == {
        0.02: {0, 2, 3, 4}, 0.25: {0, 3, 4}, 0.4: {0}, 10.0: set()
    }[delta]  # fmt: skip
    assert terms.rejected.tolist() == out
    assert terms.loss.tolist() == plain.loss.masked_fill(torch.tensor(out), 0.0).tolist()


def test_token_mask_rejection_and_opsm_add_up() -> None:
    tokens = scene()
    parts = [
        ObjectiveConfig(correction=Correction.decoupled, weighting=Weighting.mask, mask_low=0.9, mask_high=1.1),
        ObjectiveConfig(rejection=Rejection.geometric),
        ObjectiveConfig(opsm_delta=0.25),
    ]
    whole = ObjectiveConfig(
        correction=Correction.decoupled,
        weighting=Weighting.mask,
        mask_low=0.9,
        mask_high=1.1,
        rejection=Rejection.geometric,
        opsm_delta=0.25,
    )
    masks = [policy_terms(tokens, cfg).rejected for cfg in parts]
    assert len({tuple(mask.tolist()) for mask in masks}) == 3
    assert policy_terms(tokens, whole).rejected.tolist() == (masks[0] | masks[1] | masks[2]).tolist()


def test_a_long_rollouts_product_is_compared_without_overflow() -> None:
    rollout = torch.arange(2).repeat_interleave(4000)
    log_weight = torch.where(rollout == 0, 0.05, -0.05)
    cfg = ObjectiveConfig(rejection=Rejection.product, reject_low=0.0, reject_high=1e30)
    assert rejected_rollouts(log_weight, rollout, 2, cfg).tolist() == [True] * 4000 + [False] * 4000


def test_opsm_judges_each_token_by_its_own_advantage() -> None:
    """KL in the reward gives the tokens of one rollout advantages of different signs."""
    advantage = torch.tensor([-1.0, 1.0, 0.0])
    assert off_policy_sequence_mask(torch.full((3,), -1.0), advantage, torch.zeros(3).long(), 1, 0.5).tolist() == [
        True,
        False,
        False,
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-10, 10)), min_size=1, max_size=30))
def test_sums_and_means_over_rollouts_equal_loops(rows: list[tuple[int, float]]) -> None:
    rollout = torch.tensor([owner for owner, _ in rows])
    values = torch.tensor([value for _, value in rows], dtype=torch.float64)
    parts = [[value for owner, value in rows if owner == which] for which in range(5)]
    assert rollout_sums(values, rollout, 5).tolist() == pytest.approx([sum(part) for part in parts], abs=1e-9)
    means = [sum(part) / len(part) if part else 0.0 for part in parts]
    assert rollout_means(values, rollout, 5).tolist() == pytest.approx(means, abs=1e-9)
