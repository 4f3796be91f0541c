"""Corrections for samples of an older policy: the ratio that the loss clips, behaviour weights, and rollouts left out.

Per token, with b, p, t the tempered log-probabilities of behaviour, proximal and current policy:
    decoupled    r = exp(t - p), the loss times f(exp(p - b))        Hilton et al., 2110.00641; AReaL, 2505.24298
    approximate  the same, p = b + alpha (stop_grad(t) - b), alpha = staleness / (staleness + 1)    AReaL
    bypass       r = exp(t - b), no weight: it is in the ratio already
f: min(w, truncation); or w inside [mask_low, mask_high] and 0 outside (IcePop); or 1.

Whole rollouts leave the loss, with means and sums over the rollout's tokens in the micro-batch:
    geometric  unless reject_low <= exp(mean(p - b)) <= reject_high    verl, NeMo-RL; bounds like .999 and 1.002
    product    unless reject_low <= exp(sum(p - b)) <= reject_high     the rollout's own importance weight
    OPSM       where A < 0, if mean(b - t) > opsm_delta                DeepSeek-V3.2, arXiv 2512.02556
Denominators of the loss do not change for rollouts that are left out. With approximate, p of a token of the newest policy is b:
policy and sampler agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Correction, Rejection, Weighting
from .api import Tokens
from .ratios import exp_ratio, finite_difference, rollout_means, rollout_sums


@dataclass(frozen=True, slots=True)
class CorrectionRule:
    """How a correction uses the three policies."""

    # (old, proximal), each [M] and without a gradient: the loss clips exp(policy - old), w is exp(proximal - behaviour)
    policies: Callable[[Tokens], tuple[Tensor, Tensor]]
    # whether the loss is multiplied by a weight made of w
    weighted: bool
    # whether old, or w, is made of tokens.proximal
    old_reads_proximal: bool
    w_reads_proximal: bool

    def reads_proximal(self, cfg: ObjectiveConfig) -> bool:
        """Whether a step under `cfg` reads tokens.proximal at all."""
        return self.old_reads_proximal or (self.w_reads_proximal and (self.weighted or cfg.rejection in REJECTIONS))


def _decoupled(tokens: Tokens) -> tuple[Tensor, Tensor]:
    return tokens.proximal.detach(), tokens.proximal.detach()


def _bypass(tokens: Tokens) -> tuple[Tensor, Tensor]:
    return tokens.behaviour.detach(), tokens.proximal.detach()


def _approximate(tokens: Tokens) -> tuple[Tensor, Tensor]:
    behaviour, staleness = tokens.behaviour.detach(), tokens.staleness.to(tokens.policy.dtype)
    step = finite_difference(tokens.policy.detach(), behaviour)
    proximal = behaviour + staleness / (staleness + 1.0) * step
    return proximal, proximal


CORRECTIONS: dict[Correction, CorrectionRule] = {
    Correction.decoupled: CorrectionRule(_decoupled, weighted=True, old_reads_proximal=True, w_reads_proximal=True),
    Correction.bypass: CorrectionRule(_bypass, weighted=False, old_reads_proximal=False, w_reads_proximal=True),
    Correction.approximate: CorrectionRule(_approximate, weighted=True, old_reads_proximal=False, w_reads_proximal=False),
}


def log_ratios(tokens: Tokens, correction: Correction) -> tuple[Tensor, Tensor]:
    """Compute the logarithm [M] of the ratio that the loss clips, and log w [M] = proximal - behaviour, a constant.

    Non-finite ones are 0, without gradient.
    """
    old, proximal = CORRECTIONS[correction].policies(tokens)
    return finite_difference(tokens.policy, old), finite_difference(proximal, tokens.behaviour.detach())


@dataclass(slots=True)
class BehaviourWeight:
    """The effect of a correction on the loss of every token."""

    # [M] w before truncation or mask; 1 where the correction has no weight
    weight: Tensor
    # the loss is multiplied by this: [M], or a number for all tokens
    factor: Tensor | float
    # [M] bool: the token mask leaves the token out
    masked: Tensor


def behaviour_weight(log_weight: Tensor, cfg: ObjectiveConfig) -> BehaviourWeight:
    """Turn log w [M] into the loss's factor, as `cfg.correction` and `cfg.weighting` say."""
    if not CORRECTIONS[cfg.correction].weighted:
        return BehaviourWeight(torch.ones_like(log_weight), 1.0, torch.zeros_like(log_weight, dtype=torch.bool))
    return WEIGHTINGS[cfg.weighting](exp_ratio(log_weight), cfg)


def _truncated(weight: Tensor, cfg: ObjectiveConfig) -> BehaviourWeight:
    return BehaviourWeight(weight, weight.clamp(max=cfg.truncation), torch.zeros_like(weight, dtype=torch.bool))


def _masked(weight: Tensor, cfg: ObjectiveConfig) -> BehaviourWeight:
    outside = (weight < cfg.mask_low) | (weight > cfg.mask_high)
    return BehaviourWeight(weight, weight.masked_fill(outside, 0.0), outside)


def _unweighted(weight: Tensor, cfg: ObjectiveConfig) -> BehaviourWeight:
    return BehaviourWeight(weight, 1.0, torch.zeros_like(weight, dtype=torch.bool))


WEIGHTINGS: dict[Weighting, Callable[[Tensor, ObjectiveConfig], BehaviourWeight]] = {
    Weighting.truncate: _truncated,
    Weighting.mask: _masked,
    Weighting.none: _unweighted,
}

# rejection -> the statistic [R] of log w over a rollout that is held against the bounds; Rejection.none has none
REJECTIONS: dict[Rejection, Callable[[Tensor, Tensor, int], Tensor]] = {
    Rejection.geometric: rollout_means,
    Rejection.product: rollout_sums,
}


@torch.no_grad()
def rejected_rollouts(log_weight: Tensor, rollout: Tensor, num_rollouts: int, cfg: ObjectiveConfig) -> Tensor:
    """[M] bool: True for the tokens of rollouts that `cfg.rejection` leaves out. log_weight [M] is proximal - behaviour."""
    if cfg.rejection not in REJECTIONS:
        return torch.zeros_like(log_weight, dtype=torch.bool)
    score = REJECTIONS[cfg.rejection](log_weight, rollout, num_rollouts)
    low = math.log(cfg.reject_low) if cfg.reject_low > 0 else -math.inf
    return ((score < low) | (score > math.log(cfg.reject_high)))[rollout]


@torch.no_grad()
def off_policy_sequence_mask(log_ratio: Tensor, advantage: Tensor, rollout: Tensor, num_rollouts: int, delta: float) -> Tensor:
    """OPSM, [M] bool: True where the advantage is negative and the mean of -log_ratio over the rollout is above delta.

    log_ratio [M] is policy - behaviour. delta 0 switches the mask off.
    """
    if delta == 0.0:
        return torch.zeros_like(log_ratio, dtype=torch.bool)
    return (advantage < 0) & (-rollout_means(log_ratio, rollout, num_rollouts) > delta)[rollout]
