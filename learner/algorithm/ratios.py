"""Log-ratios between policies, kept finite, and their sums over rollouts."""

from __future__ import annotations

import torch
from torch import Tensor

# its exponential is finite in float32; larger log-ratios count as this, without gradient
MAX_LOG_RATIO = 80.0


def finite_difference(left: Tensor, right: Tensor) -> Tensor:
    """Compute left - right, and 0 (without gradient) wherever that is not finite."""
    difference = left - right
    return torch.where(torch.isfinite(difference), difference, torch.zeros_like(difference))


def exp_ratio(log_ratio: Tensor) -> Tensor:
    """Compute the ratio of a log-ratio: finite, and without gradient beyond MAX_LOG_RATIO."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def rollout_sums(values: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """Sum per-token values [M] over each rollout: [R]. rollout [M] int64 is the index of a token's rollout."""
    return torch.zeros(num_rollouts, dtype=values.dtype, device=values.device).index_add_(0, rollout, values)


def rollout_means(values: Tensor, rollout: Tensor, num_rollouts: int) -> Tensor:
    """Average per-token values [M] over each rollout: [R]; 0 for a rollout without tokens."""
    counts = rollout_sums(torch.ones_like(values), rollout, num_rollouts)
    return rollout_sums(values, rollout, num_rollouts) / counts.clamp(min=1.0)
