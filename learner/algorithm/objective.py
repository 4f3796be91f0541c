"""The loss of one micro-batch, token by token: policy objective, KL to the reference, entropy bonus.

    loss = policy_loss(A) + kl_beta * kl_penalty - entropy_coefficient * entropy        with KL in the loss
    loss = policy_loss(A - kl_beta * k1) - entropy_coefficient * entropy                with KL in the reward
policy_loss is a loss of losses/table.py on the ratio of a correction, times its behaviour weight, and 0 for tokens left
out (corrections.py). The caller multiplies by token weights (1 / a global denominator), which make it a mean over the whole
mini-batch, and sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import KLPlacement
from ..batches.packing import MicroBatch
from .api import LossTerms, PolicyLoss, TokenLoss, Tokens
from .corrections import CORRECTIONS, behaviour_weight, log_ratios, off_policy_sequence_mask, rejected_rollouts
from .kl import kl_in_reward, kl_penalty
from .ratios import finite_difference


@dataclass(slots=True)
class PolicyTerms:
    """The corrected policy loss, per token [M]; only `loss` carries a gradient."""

    # to minimise; 0 for tokens that are left out
    loss: Tensor
    # of the loss before its behaviour weight
    uncorrected: LossTerms
    # behaviour weight before truncation or mask; 1 with correction bypass
    weight: Tensor
    # bool: left out by the token mask, a rollout's rejection or OPSM
    rejected: Tensor


@dataclass(slots=True)
class LossParts:
    """The whole loss, per token [M], before token weights. Only `total` carries a gradient."""

    total: Tensor
    terms: PolicyTerms
    # kl_beta * penalty; 0 with KL in the reward
    kl_term: Tensor
    # k3 to the reference; 0 without one
    kl: Tensor


def micro_loss(
    micro: MicroBatch, policy: Tensor, entropy: Tensor, cfg: ObjectiveConfig, *, token_loss: TokenLoss, bonus: float
) -> LossParts:
    """Compute the loss of every token. policy, entropy [M]: with gradients; bonus: the entropy's coefficient.

    Without `micro.proximal` the proximal policy is the current one: this is the batch's first update.
    """
    advantage = micro.advantage
    if micro.reference is not None and cfg.kl_placement is KLPlacement.reward:
        advantage = advantage - kl_in_reward(policy, micro.reference, cfg)
    tokens = Tokens(
        policy=policy,
        proximal=policy.detach() if micro.proximal is None else micro.proximal,
        behaviour=micro.behaviour,
        advantage=advantage,
        staleness=micro.staleness,
        rollout=micro.rollout,
        num_rollouts=micro.num_rollouts,
        group=micro.group,
    )
    terms = policy_loss(tokens, cfg, token_loss)
    total, kl_term = terms.loss, torch.zeros_like(micro.advantage)
    kl = kl_term
    if micro.reference is not None:
        penalty, kl = kl_penalty(policy, micro.reference, micro.behaviour, cfg)
        total = total + cfg.kl_beta * penalty
        kl_term = cfg.kl_beta * penalty.detach()
    if bonus:
        total = total - bonus * entropy
    return LossParts(total=total, terms=terms, kl_term=kl_term, kl=kl)


def policy_loss(tokens: Tokens, cfg: ObjectiveConfig, token_loss: TokenLoss) -> PolicyTerms:
    """Compute the loss of every token, to minimise: `token_loss` on the corrected ratio, weighted and masked."""
    log_ratio, log_weight = log_ratios(tokens, cfg.correction)
    behaviour = behaviour_weight(log_weight, cfg)
    rejected = behaviour.masked | rejected_rollouts(log_weight, tokens.rollout, tokens.num_rollouts, cfg)
    moved = finite_difference(tokens.policy.detach(), tokens.behaviour)
    rejected = rejected | off_policy_sequence_mask(moved, tokens.advantage, tokens.rollout, tokens.num_rollouts, cfg.opsm_delta)
    terms = token_loss(tokens, log_ratio)
    loss = torch.where(rejected, torch.zeros_like(terms.loss), behaviour.factor * terms.loss)
    return PolicyTerms(loss=loss, uncorrected=terms, weight=behaviour.weight, rejected=rejected)


def needs_proximal_forward(loss: PolicyLoss, cfg: ObjectiveConfig, updates: int) -> bool:
    """Whether a batch of so many updates needs a separate forward for the proximal policy, before the first update.

    A single update needs it only if the loss looks at the mini-batch beforehand: there the proximal policy is the current one.
    """
    if loss.needs_proximal:
        return True
    return updates > 1 and CORRECTIONS[cfg.correction].reads_proximal(cfg)


def next_entropy_coefficient(coefficient: float, entropy: float, cfg: ObjectiveConfig) -> float:
    """Return the coefficient of the entropy bonus for the next step: c + entropy_rate * (entropy_target - entropy).

    It is kept in [0, entropy_max]: it grows while the entropy is below the target and shrinks above, to no bonus at all.
    entropy: mean over the step's tokens, nats; if not finite, nothing changes. Source: adaptive entropy control of
    Skywork-OR1, arXiv 2505.22312, where the steps are of constant size.
    """
    if cfg.entropy_target == 0:
        return 0.0
    if not math.isfinite(entropy):
        return coefficient
    return min(max(coefficient + cfg.entropy_rate * (cfg.entropy_target - entropy), 0.0), cfg.entropy_max)
