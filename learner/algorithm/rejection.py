"""Whole rollouts that leave the loss: policy and sampler disagree on them, or they are failures that the policy left behind.

With b, p, t the log-probabilities of behaviour, proximal and current policy, the means over the rollout's tokens:
    geometric: out unless low <= exp(mean(p - b)) <= high           verl, NeMo-RL; bounds like .999 and 1.002
    product:   out unless low <= exp(sum(p - b)) <= high            the rollout's own importance weight
    OPSM:      out, where A < 0, if mean(b - t) > delta             DeepSeek-V3.2, arXiv 2512.02556
Token counts are those of the rollout in the micro-batch. Denominators of the loss do not change for what is left out.
With correction approximate p is the interpolated one: for tokens of the newest policy it is b, and they disagree in nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Rejection


def rollout_sums(values: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """Sums [R] of per-token values [M] over each rollout; rollout [M] int64 says whose a token is."""
    return torch.zeros(num_rollouts, dtype=values.dtype, device=values.device).index_add_(0, rollout, values)


def rollout_means(values: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """Means [R] of per-token values [M] over each rollout; 0 for a rollout without tokens."""
    counts = rollout_sums(torch.ones_like(values), rollout, num_rollouts)
    return rollout_sums(values, rollout, num_rollouts) / counts.clamp(min=1.0)


@torch.no_grad()
def rejected_rollouts(log_weight: Tensor, rollout: Tensor, num_rollouts: int, cfg: ObjectiveConfig) -> Tensor:
    """[M] bool: True for the tokens of rollouts that `cfg.rejection` leaves out. log_weight [M] is proximal - behaviour."""
    if cfg.rejection is Rejection.none:
        return torch.zeros_like(log_weight, dtype=torch.bool)
    reduce = rollout_means if cfg.rejection is Rejection.geometric else rollout_sums
    score = reduce(log_weight, rollout, num_rollouts)
    low = math.log(cfg.reject_low) if cfg.reject_low > 0 else -math.inf
    return ((score < low) | (score > math.log(cfg.reject_high)))[rollout]


@torch.no_grad()
def left_behind(log_ratio: Tensor, advantage: Tensor, rollout: Tensor, num_rollouts: int, delta: float) -> Tensor:
    """OPSM, [M] bool: True where the advantage is negative and the mean of -log_ratio over the rollout is above delta.

    log_ratio [M] is policy - behaviour. delta 0 leaves nothing out: the mask is off.
    """
    if delta == 0.0:
        return torch.zeros_like(log_ratio, dtype=torch.bool)
    return (advantage < 0) & (-rollout_means(log_ratio, rollout, num_rollouts) > delta)[rollout]
