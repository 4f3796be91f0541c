"""The policy objective: PPO with decoupled clipping, and the correction for samples of an older policy.

Per token, with b, p, t the tempered log-probabilities of behaviour, proximal and current policy, A the advantage:
    ppo(r)    = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))               DAPO, arXiv 2503.14476, equation 10
    decoupled = stop_grad(min(exp(p - b), C)) * ppo(exp(t - p))                  Hilton et al., 2110.00641; AReaL, 2505.24298
    bypass    = ppo(exp(t - b)); the weight is in the ratio already
The caller multiplies by token weights (1 / a global denominator) and sums. Non-finite log-ratios count as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.config import Correction


@dataclass(slots=True)
class PolicyTerms:
    """Per-token results [M]; only `loss` carries a gradient."""

    loss: Tensor
    ratio: Tensor  # that was clipped
    weight: Tensor  # behaviour weight before truncation; 1 with bypass
    clipped_low: Tensor  # bool: the clip took the gradient, from below
    clipped_high: Tensor  # bool: from above


def policy_loss(
    policy: Tensor,
    proximal: Tensor,
    behaviour: Tensor,
    advantage: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    correction: Correction,
    truncation: float,
) -> PolicyTerms:
    """Loss of every token, to minimise. All inputs [M]; `proximal` and `behaviour` are constants (detached here)."""
    proximal, behaviour = proximal.detach(), behaviour.detach()
    if correction is Correction.bypass:
        log_ratio, weight = finite_difference(policy, behaviour), torch.ones_like(advantage)
    else:
        log_ratio, weight = finite_difference(policy, proximal), finite_difference(proximal, behaviour).exp()
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = weight.clamp(max=truncation) * torch.maximum(-advantage * ratio, -advantage * clipped)
    with torch.no_grad():
        low = (ratio < 1.0 - clip_low) & (advantage < 0)
        high = (ratio > 1.0 + clip_high) & (advantage > 0)
    return PolicyTerms(loss=loss, ratio=ratio.detach(), weight=weight, clipped_low=low, clipped_high=high)


def finite_difference(left: Tensor, right: Tensor) -> Tensor:
    """left - right, and 0 (without gradient) wherever that is not finite."""
    difference = left - right
    return torch.where(torch.isfinite(difference), difference, torch.zeros_like(difference))
