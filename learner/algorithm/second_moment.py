"""M2PO: clip bounds that keep the second moment of the log-ratio small. Source: arXiv 2510.01161; recipe, section 3.

Harmful tokens are those that the update would push further from their sampler: A > 0 and r > 1, or A < 0 and r < 1. Over these
(not over all tokens) tau is the cap for which the mean of min(|log r|, tau)^2 is the budget; where the mean is below the budget
without a cap, tau is the largest |log r|. The ratio is then clipped to [exp(-tau), exp(tau)], but never more tightly than to
[HIGHEST_LOW, LOWEST_HIGH]: a batch that is hardly stale is trained with those.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HIGHEST_LOW = 0.7  # the lower bound of the ratio is never above this
LOWEST_HIGH = 1.5  # the upper bound is never below this


def second_moment_bounds(log_ratio: Tensor, advantage: Tensor, *, budget: float) -> tuple[float, float]:
    """Lowest and highest ratio. log_ratio, advantage [K]: all tokens of the mini-batch, of all ranks; both constants.

    log_ratio is that of the ratio which the loss clips (objective.log_ratios). Non-finite ones count as 0.
    """
    cap = second_moment_cap(log_ratio, advantage, budget=budget)
    return min(math.exp(-cap), HIGHEST_LOW), max(math.exp(cap), LOWEST_HIGH)


@torch.no_grad()
def second_moment_cap(log_ratio: Tensor, advantage: Tensor, *, budget: float) -> float:
    """tau in nats, 0 if no token is harmful.

    With the harmful |log r| ascending, a_1 ... a_K: capping all but the first k leaves sum(a_i^2, i <= k) + (K - k) tau^2, and
    the k to choose is the first at which a_(k + 1), as the cap, is too large.
    """
    values = torch.nan_to_num(log_ratio.double(), nan=0.0, posinf=0.0, neginf=0.0)
    harmful = (values * advantage.double()) > 0
    squares = values[harmful].square().sort().values
    if not len(squares):
        return 0.0
    total = budget * len(squares)
    below = squares.cumsum(0) - squares  # sum of the squares before each
    remaining = torch.arange(len(squares), 0, -1, dtype=torch.float64, device=squares.device)
    too_large = below + remaining * squares > total
    if not bool(too_large.any()):
        return float(squares[-1].sqrt())
    first = int(too_large.int().argmax())
    return math.sqrt(float((total - below[first]) / remaining[first]))
