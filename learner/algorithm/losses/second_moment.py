"""M2PO: clip bounds that keep the second moment of the mini-batch's log-ratios small. Source: arXiv 2510.01161.

Harmful tokens are those that the update would push further from their sampler: A > 0 and r > 1, or A < 0 and r < 1. tau is the
cap for which the mean of min(|log r|, tau)^2 over the harmful tokens (not over all tokens) is the budget; where that mean is
below the budget without a cap, tau is the largest |log r|. The ratio is then clipped to [exp(-tau), exp(tau)], but never more
tightly than to [HIGHEST_LOW, LOWEST_HIGH]: a batch that is hardly stale is trained with those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....common.config.algorithm import ObjectiveConfig
from ...batches.packing import MicroBatch
from ...ranks import Ranks
from ..api import LossTerms, Tokens
from ..ratios import exp_ratio, finite_difference
from .per_token import ppo

# the lower bound of the ratio is never above this
HIGHEST_LOW = 0.7
# the upper bound of the ratio is never below this
LOWEST_HIGH = 1.5


@dataclass(frozen=True, slots=True)
class SecondMomentClip:
    """PPO with the bounds of one mini-batch."""

    lowest: float
    highest: float

    def __call__(self, tokens: Tokens, log_ratio: Tensor) -> LossTerms:
        """Clip the ratio to [lowest, highest]."""
        return ppo(exp_ratio(log_ratio), tokens.advantage, (self.lowest, self.highest))

    def metrics(self) -> dict[str, float]:
        """Report the upper bound."""
        return {"policy/m2po_bound": self.highest}


@dataclass(frozen=True, slots=True)
class SecondMomentLoss:
    """M2PO. Its bounds need all tokens of the mini-batch, hence a forward for the proximal policy before the first backward."""

    cfg: ObjectiveConfig
    # the bounds are made of proximal - behaviour
    needs_proximal = True

    def for_mini_batch(self, micros: Sequence[MicroBatch], ranks: Ranks) -> SecondMomentClip:
        """Compute the bounds from proximal - behaviour of the mini-batch's tokens on all ranks. Collective.

        In a batch's later updates that is the ratio to the sampler as it was at the batch's start. Waits for the device.
        Tokens of spare micro-batches get the log-ratio 0, which no bound depends on.
        """
        log_ratios, advantages = [], []
        for micro in micros:
            assert micro.proximal is not None, "loss m2po needs the log-probabilities of the proximal policy"
            log_ratios.append(finite_difference(micro.proximal, micro.behaviour) * (micro.weight > 0))
            advantages.append(micro.advantage)
        own = torch.stack((torch.cat(log_ratios), torch.cat(advantages))).double().cpu()
        log_ratio, advantage = torch.cat(ranks.gather_ragged(own)[:: ranks.sharing], dim=1)
        return SecondMomentClip(*second_moment_bounds(log_ratio, advantage, budget=self.cfg.second_moment))


def second_moment_bounds(log_ratio: Tensor, advantage: Tensor, *, budget: float) -> tuple[float, float]:
    """Return the lowest and the highest ratio. log_ratio, advantage [K]: constants, of all tokens of all ranks.

    log_ratio is the logarithm of the ratio that the loss clips (corrections.log_ratios). Non-finite ones count as 0.
    """
    cap = second_moment_cap(log_ratio, advantage, budget=budget)
    return min(math.exp(-cap), HIGHEST_LOW), max(math.exp(cap), LOWEST_HIGH)


@torch.no_grad()
def second_moment_cap(log_ratio: Tensor, advantage: Tensor, *, budget: float) -> float:
    """Compute tau in nats; 0 if no token is harmful.

    With the harmful |log r| ascending, a_1 ... a_K: capping all but the first k leaves sum(a_i^2, i <= k) + (K - k) tau^2. The
    right k is the first at which a_(k + 1), as the cap, is too large.
    """
    values = torch.nan_to_num(log_ratio.double(), nan=0.0, posinf=0.0, neginf=0.0)
    harmful = (values * advantage.double()) > 0
    squares = values[harmful].square().sort().values
    if not len(squares):
        return 0.0
    total = budget * len(squares)
    # sum of the squares before each
    below = squares.cumsum(0) - squares
    remaining = torch.arange(len(squares), 0, -1, dtype=torch.float64, device=squares.device)
    too_large = below + remaining * squares > total
    if not bool(too_large.any()):
        return float(squares[-1].sqrt())
    first = int(too_large.int().argmax())
    return math.sqrt(float((total - below[first]) / remaining[first]))
