"""KL(policy, reference) in the loss, per token, with estimator and weight as a pair whose gradient is right.

With s = log pi_ref - log pi_theta and w = pi_theta / mu (mu: the sampler), both of which the expectation over mu needs:
    k2: stop_grad(w) * s^2 / 2             k3: w * (exp(s) - s - 1), with w live
Either gives E_mu[gradient] = gradient of KL(pi_theta || pi_ref), exactly; tests/unit/learner/test_kl.py enumerates it. Not
offered, because their gradients are wrong: anything without w, stop_grad(w) * k3, live w * k2 (48 % off). Source: recipe,
section 4; http://joschu.net/blog/kl-approx.html for the names.

Log-probabilities are the tempered ones on both sides, the same that the ratio uses. Truncation: a token with w > C has its
whole term scaled by the constant C / w, value and gradient alike, so that the pair stays a pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.config import KLEstimator
from .objective import finite_difference


def kl_penalty(
    policy: Tensor, reference: Tensor, behaviour: Tensor, *, estimator: KLEstimator, clamp: float, truncation: float
) -> tuple[Tensor, Tensor]:
    """Per-token penalty [M] to minimise (policy carries the gradient), and the plain k3 [M] to report, which is detached.

    policy, reference, behaviour: [M] log-probabilities. Log-ratios to the reference are clamped to +-clamp, weights to <=
    truncation; non-finite log-ratios count as 0.
    """
    log_ratio = finite_difference(reference, policy).clamp(-clamp, clamp)
    weight = finite_difference(policy, behaviour).clamp(max=80.0).exp()
    scale = (weight.detach().clamp(max=truncation) / weight.detach()).nan_to_num(0.0)
    k3 = log_ratio.exp() - log_ratio - 1.0
    if estimator is KLEstimator.k3:
        return scale * weight * k3, k3.detach()
    return (scale * weight).detach() * (0.5 * torch.square(log_ratio)), k3.detach()
