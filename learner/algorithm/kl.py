"""KL(policy, reference): per token, in the loss or in the reward. Estimator and weight are a pair whose gradient is right.

With s = log pi_ref - log pi_theta, and w = pi_theta / mu, the importance weight of tokens that mu sampled:
    k1 = -s, k2 = s^2 / 2, k3 = exp(s) - s - 1
    in the loss:   w k1 and w k3 with w live, stop_grad(w) k2
    in the reward: stop_grad(k1), subtracted from the advantage, which the policy loss weighs with stop_grad(w)
Each gives E_mu[gradient] = gradient of KL(pi_theta || pi_ref), exactly. The other pairs do not: k1 in the loss with a constant
weight has no gradient, k3 with a constant weight has the gradient of the forward KL, k2 with a live weight is 48 % off.
ObjectiveConfig refuses them, and tests/unit/learner/algorithm/test_kl.py enumerates all. The names k1, k2 and k3 are those of
http://joschu.net/blog/kl-approx.html.

Log-probabilities are tempered on both sides, as in the policy loss's ratio. Truncation: a token with w > C has its whole term
scaled by the constant C / w, value and gradient alike, so that its gradient keeps its direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...common.config.algorithm import KL_PAIRS, ObjectiveConfig
from ...common.config.choices import KLEstimator, KLPlacement, KLWeight
from .ratios import exp_ratio, finite_difference


def kl_penalty(policy: Tensor, reference: Tensor, behaviour: Tensor, cfg: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Compute the penalty [M] to minimise, which carries policy's gradient, and the plain k3 [M] to report, detached.

    policy, reference, behaviour: [M] log-probabilities. The penalty is not yet multiplied by kl_beta; it is 0 with KL in the
    reward. Log-ratios to the reference are clamped to +-kl_clamp, weights to at most `truncation`; non-finite log-ratios
    count as 0.
    """
    log_ratio = finite_difference(reference, policy).clamp(-cfg.kl_clamp, cfg.kl_clamp)
    k3 = log_ratio.exp() - log_ratio - 1.0
    if cfg.kl_placement is KLPlacement.reward:
        return torch.zeros_like(policy), k3.detach()
    match cfg.kl_estimator:
        case KLEstimator.k1:
            estimate = -log_ratio
        case KLEstimator.k2:
            estimate = 0.5 * log_ratio.square()
        case KLEstimator.k3:
            estimate = k3
    return _weight(policy, behaviour, cfg) * estimate, k3.detach()


def kl_in_reward(policy: Tensor, reference: Tensor, cfg: ObjectiveConfig) -> Tensor:
    """Compute kl_beta * k1 of every token [M], detached: placement `reward` subtracts it from the token's own advantage.

    policy, reference: [M] log-probabilities; k1 is clamped to +-kl_clamp, and 0 where it is not finite.
    """
    return cfg.kl_beta * finite_difference(policy.detach(), reference).clamp(-cfg.kl_clamp, cfg.kl_clamp)


def _weight(policy: Tensor, behaviour: Tensor, cfg: ObjectiveConfig) -> Tensor | float:
    kind = KL_PAIRS[cfg.kl_placement, cfg.kl_estimator] if cfg.kl_weight is KLWeight.auto else cfg.kl_weight
    if kind is KLWeight.none:
        return 1.0
    weight = exp_ratio(finite_difference(policy, behaviour))
    scale = (weight.detach().clamp(max=cfg.truncation) / weight.detach()).nan_to_num(0.0)
    return scale * (weight if kind is KLWeight.live else weight.detach())
