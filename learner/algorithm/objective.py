"""The policy objective: the loss of every token, and the correction for samples of an older policy.

Per token, with b, p, t the tempered log-probabilities of behaviour, proximal and current policy, A the advantage:
    clip   ppo(r) = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))       DAPO, arXiv 2503.14476, equation 10
           and, where A < 0, at most dual_clip |A|                           1912.09729
    m2po   ppo(r) with bounds from second_moment.py                          2510.01161
    gspo   ppo(s), s = exp(mean over the rollout of log r)                   2507.18071, the gradient of GSPO-token
    cispo  -stop_grad(min(r, 1 + clip_high)) A t                             MiniMax-M1, 2506.13585
    decoupled    r = exp(t - p), times f(exp(p - b))                         Hilton et al., 2110.00641; AReaL, 2505.24298
    approximate  the same, p = b + alpha (stop_grad(t) - b), alpha = staleness / (staleness + 1)    AReaL
    bypass       r = exp(t - b), no weight: it is in the ratio already
f: min(w, truncation); or w inside [mask_low, mask_high] and 0 outside (IcePop); or 1. rejection.py leaves out whole rollouts.
CISPO has no lower bound, as in its paper: a weight raised to 1 - clip_low would count unlikely tokens too much.
The caller multiplies by token weights (1 / a global denominator) and sums. Non-finite log-ratios count as 0, without gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Correction, Loss, Weighting
from .rejection import left_behind, rejected_rollouts, rollout_means

MAX_LOG_RATIO = 80.0  # its exponential is finite in float32; larger log-ratios count as this, without gradient


@dataclass(slots=True)
class Tokens:
    """What the loss of one micro-batch is made of: M tokens of R rollouts, each rollout whole in it.

    All log-probabilities are tempered. Only `policy` carries a gradient.
    """

    policy: Tensor  # [M]
    proximal: Tensor  # [M]; correction approximate does not read it
    behaviour: Tensor  # [M]
    advantage: Tensor  # [M]
    staleness: Tensor  # [M] versions between the token's sampler and the proximal policy, 0 or more
    rollout: Tensor  # [M] int64, 0 to num_rollouts - 1
    num_rollouts: int


@dataclass(slots=True)
class PolicyTerms:
    """Per-token results [M]; only `loss` carries a gradient."""

    loss: Tensor
    ratio: Tensor  # that was clipped; loss gspo: that of the rollout
    weight: Tensor  # behaviour weight before truncation or mask; 1 with bypass
    clipped_low: Tensor  # bool: the ratio was below its lower bound, where that takes the gradient
    clipped_high: Tensor  # bool: above its upper bound, where that takes the gradient (cispo: bounds it)
    clipped_dual: Tensor  # bool: the dual clip took the gradient
    rejected: Tensor  # bool: left out by the token mask, a rollout's rejection or OPSM; the loss is 0


def policy_loss(tokens: Tokens, cfg: ObjectiveConfig, bounds: tuple[float, float] | None = None) -> PolicyTerms:
    """Loss of every token, to minimise. `bounds`: lowest and highest ratio, which loss m2po needs and no other reads."""
    log_ratio, log_weight = log_ratios(tokens, cfg)
    if cfg.loss is Loss.gspo:
        means = rollout_means(log_ratio.detach(), tokens.rollout, tokens.num_rollouts)
        log_ratio = means[tokens.rollout] + (log_ratio - log_ratio.detach())
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    if cfg.correction is Correction.bypass:
        weight, factor, rejected = torch.ones_like(ratio), 1.0, torch.zeros_like(ratio, dtype=torch.bool)
    else:
        weight = log_weight.clamp(max=MAX_LOG_RATIO).exp()
        factor, rejected = _weigh(weight, cfg)
    rejected = rejected | rejected_rollouts(log_weight, tokens.rollout, tokens.num_rollouts, cfg)
    moved = finite_difference(tokens.policy.detach(), tokens.behaviour)
    rejected = rejected | left_behind(moved, tokens.advantage, tokens.rollout, tokens.num_rollouts, cfg.opsm_delta)
    if cfg.loss is Loss.cispo:
        loss, flags = _cispo(tokens, log_ratio, ratio.detach(), 1.0 + cfg.clip_high)
    else:
        loss, flags = _ppo(ratio, tokens.advantage, _bounds(cfg, bounds), cfg.dual_clip)
    loss = torch.where(rejected, torch.zeros_like(loss), factor * loss)
    low, high, dual = flags
    return PolicyTerms(
        loss=loss,
        ratio=ratio.detach(),
        weight=weight,
        clipped_low=low,
        clipped_high=high,
        clipped_dual=dual,
        rejected=rejected,
    )


def log_ratios(tokens: Tokens, cfg: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Logarithm of each token's ratio [M], which the loss clips, and proximal - behaviour [M], which is constant.

    The ratio is to the proximal policy (bypass: to the behaviour policy). Non-finite ones are 0, without gradient.
    """
    behaviour, proximal = tokens.behaviour.detach(), tokens.proximal.detach()
    if cfg.correction is Correction.approximate:
        staleness = tokens.staleness.to(tokens.policy.dtype)
        step = finite_difference(tokens.policy.detach(), behaviour)
        proximal = behaviour + staleness / (staleness + 1.0) * step
    old = behaviour if cfg.correction is Correction.bypass else proximal
    return finite_difference(tokens.policy, old), finite_difference(proximal, behaviour)


def finite_difference(left: Tensor, right: Tensor) -> Tensor:
    """left - right, and 0 (without gradient) wherever that is not finite."""
    difference = left - right
    return torch.where(torch.isfinite(difference), difference, torch.zeros_like(difference))


def _weigh(weight: Tensor, cfg: ObjectiveConfig) -> tuple[Tensor | float, Tensor]:
    """The factor of the loss, and [M] bool: True for tokens that the token mask leaves out."""
    outside = torch.zeros_like(weight, dtype=torch.bool)
    match cfg.weighting:
        case Weighting.truncate:
            return weight.clamp(max=cfg.truncation), outside
        case Weighting.mask:
            outside = (weight < cfg.mask_low) | (weight > cfg.mask_high)
            return weight.masked_fill(outside, 0.0), outside
        case Weighting.none:
            return 1.0, outside


def _bounds(cfg: ObjectiveConfig, bounds: tuple[float, float] | None) -> tuple[float, float]:
    if cfg.loss is not Loss.m2po:
        return 1.0 - cfg.clip_low, 1.0 + cfg.clip_high
    assert bounds is not None, "loss m2po needs the bounds of second_moment.py"
    return bounds


def _ppo(
    ratio: Tensor, advantage: Tensor, bounds: tuple[float, float], dual_clip: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Clipped loss [M], and where the lower bound, the upper bound and the dual clip took its gradient."""
    clipped = ratio.clamp(*bounds)
    loss = torch.maximum(-advantage * ratio, -advantage * clipped)
    negative = advantage < 0
    dual = torch.zeros_like(negative)
    if dual_clip:
        dual = negative & (ratio > dual_clip)
        loss = torch.where(dual, -dual_clip * advantage, loss)
    return loss, (negative & (ratio < bounds[0]), (advantage > 0) & (ratio > bounds[1]), dual)


def _cispo(tokens: Tokens, log_ratio: Tensor, ratio: Tensor, highest: float) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """-min(ratio, highest) A t. Only log_ratio carries the gradient, of t: none where it is not finite."""
    policy = tokens.policy.detach().nan_to_num(0.0, 0.0, 0.0) + (log_ratio - log_ratio.detach())
    nowhere = torch.zeros_like(ratio, dtype=torch.bool)
    return -ratio.clamp(max=highest) * tokens.advantage * policy, (nowhere, ratio > highest, nowhere)
