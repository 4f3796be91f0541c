"""Losses of a token or a rollout: the same function for every mini-batch.

With r the token's ratio (log_ratio its logarithm), t the current policy's log-probability, A the advantage:
    clip   ppo(r) = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))       DAPO, arXiv 2503.14476, equation 10
           and, where A < 0, at most dual_clip |A|                           1912.09729
    gspo   ppo(s), s = exp(mean over the rollout of log r)                   2507.18071, the gradient of GSPO-token
    cispo  -stop_grad(min(r, 1 + clip_high)) A t                             MiniMax-M1, 2506.13585
    sapo   -A (4 / tau) sigmoid(tau (r - 1))                                 2511.20347
SAPO's gate has the slope of r at r = 1 and flattens on both sides, so that no token's gradient ends at a bound. Its tau is
TAU_POSITIVE where A > 0 and TAU_NEGATIVE elsewhere.
CISPO has no lower bound, as in its paper: a weight raised to 1 - clip_low would count unlikely tokens too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....common.config.algorithm import ObjectiveConfig
from ...batches.packing import MicroBatch
from ...ranks import Ranks
from ..api import LossTerms, Tokens
from ..ratios import exp_ratio, rollout_means

# of SAPO, as in its paper's runs: tokens with a negative advantage lose their gradient a little sooner
TAU_POSITIVE, TAU_NEGATIVE = 1.0, 1.05

# (tokens, log_ratio [M], cfg) -> terms
LossFunction = Callable[[Tokens, Tensor, ObjectiveConfig], LossTerms]


@dataclass(frozen=True, slots=True)
class PerToken:
    """A policy loss made of a function that needs nothing from the rest of the mini-batch.

    Example: PerToken(clip_loss, cfg).for_mini_batch(micros, ranks)(tokens, log_ratio)
    """

    function: LossFunction
    cfg: ObjectiveConfig
    # no loss of this kind looks at the micro-batches beforehand
    needs_proximal = False

    def for_mini_batch(self, micros: Sequence[MicroBatch], ranks: Ranks) -> PerToken:
        """Return this loss itself. Never waits."""
        return self

    def __call__(self, tokens: Tokens, log_ratio: Tensor) -> LossTerms:
        """Apply the function."""
        return self.function(tokens, log_ratio, self.cfg)

    def metrics(self) -> dict[str, float]:
        """No metrics besides those of every loss."""
        return {}


def clip_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """PPO with decoupled clip bounds, optionally with a dual clip."""
    return ppo(exp_ratio(log_ratio), tokens.advantage, (1.0 - cfg.clip_low, 1.0 + cfg.clip_high), dual_clip=cfg.dual_clip)


def gspo_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """PPO on the ratio of the whole rollout, normalised by its length. Every token carries its own share of the gradient."""
    means = rollout_means(log_ratio.detach(), tokens.rollout, tokens.num_rollouts)
    log_ratio = means[tokens.rollout] + (log_ratio - log_ratio.detach())
    return ppo(exp_ratio(log_ratio), tokens.advantage, (1.0 - cfg.clip_low, 1.0 + cfg.clip_high))


def cispo_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """-min(r, 1 + clip_high) A t with a constant ratio. Only log_ratio carries the gradient, of t: none where not finite."""
    ratio, highest = exp_ratio(log_ratio.detach()), 1.0 + cfg.clip_high
    policy = tokens.policy.detach().nan_to_num(0.0, 0.0, 0.0) + (log_ratio - log_ratio.detach())
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return LossTerms(
        loss=-ratio.clamp(max=highest) * tokens.advantage * policy,
        ratio=ratio,
        clipped_low=never,
        clipped_high=ratio > highest,
        clipped_dual=never,
    )


def sapo_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """A soft clip of the ratio. No token is clipped for certain, so the flags stay False."""
    ratio, advantage = exp_ratio(log_ratio), tokens.advantage
    tau = torch.full_like(ratio, TAU_NEGATIVE).masked_fill(advantage > 0, TAU_POSITIVE)
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return LossTerms(
        loss=-advantage * (4.0 / tau) * torch.sigmoid(tau * (ratio - 1.0)),
        ratio=ratio.detach(),
        clipped_low=never,
        clipped_high=never,
        clipped_dual=never,
    )


def ppo(ratio: Tensor, advantage: Tensor, bounds: tuple[float, float], *, dual_clip: float = 0.0) -> LossTerms:
    """The clipped surrogate of ratios [M] with a gradient. bounds: lowest and highest ratio; dual_clip 0: off."""
    clipped = ratio.clamp(*bounds)
    loss = torch.maximum(-advantage * ratio, -advantage * clipped)
    negative = advantage < 0
    dual = torch.zeros_like(negative)
    if dual_clip:
        dual = negative & (ratio > dual_clip)
        loss = torch.where(dual, -dual_clip * advantage, loss)
    return LossTerms(
        loss=loss,
        ratio=ratio.detach(),
        clipped_low=negative & (ratio < bounds[0]),
        clipped_high=(advantage > 0) & (ratio > bounds[1]),
        clipped_dual=dual,
    )
