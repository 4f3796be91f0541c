"""What the loss of one micro-batch is made of: policy objective, KL to the reference, entropy bonus; token by token.

    loss = policy_loss(A) + kl_beta * kl_penalty - entropy_coefficient * entropy        with KL in the loss
    loss = policy_loss(A - kl_beta * k1) - entropy_coefficient * entropy                with KL in the reward
The caller multiplies by token weights, which add up to a mean over the whole mini-batch, and sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Correction, KLPlacement, Loss, Rejection
from ..batches.packing import MicroBatch
from ..ranks import Ranks
from .kl import kl_in_reward, kl_penalty
from .objective import PolicyTerms, Tokens, finite_difference, policy_loss
from .second_moment import second_moment_bounds

Bounds = tuple[float, float]


@dataclass(slots=True)
class LossParts:
    """Per token [M], before token weights. Only `total` carries a gradient."""

    total: Tensor
    terms: PolicyTerms
    kl_term: Tensor  # kl_beta * penalty; 0 with KL in the reward
    kl: Tensor  # k3 to the reference; 0 without one


def micro_loss(
    micro: MicroBatch, policy: Tensor, entropy: Tensor, cfg: ObjectiveConfig, *, bounds: Bounds | None, bonus: float
) -> LossParts:
    """The loss of every token. policy, entropy [M]: with gradients; bounds: of loss m2po; bonus: the entropy's coefficient.

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
    )
    terms = policy_loss(tokens, cfg, bounds)
    total, kl_term = terms.loss, torch.zeros_like(micro.advantage)
    kl = kl_term
    if micro.reference is not None:
        penalty, kl = kl_penalty(policy, micro.reference, micro.behaviour, cfg)
        total = total + cfg.kl_beta * penalty
        kl_term = cfg.kl_beta * penalty.detach()
    if bonus:
        total = total - bonus * entropy
    return LossParts(total=total, terms=terms, kl_term=kl_term, kl=kl)


def needs_proximal(cfg: ObjectiveConfig, updates: int) -> bool:
    """Whether a batch of so many updates needs a forward of its own for the proximal policy, before the first of them.

    A single update does not: there the proximal policy is the current one. Loss m2po does, as its bounds need all tokens of
    the mini-batch before the first backward; correction approximate, and bypass without rejection, never read it.
    """
    if cfg.loss is Loss.m2po:
        return True
    if updates == 1 or cfg.correction is Correction.approximate:
        return False
    return cfg.correction is Correction.decoupled or cfg.rejection is not Rejection.none


def mini_batch_bounds(micros: Sequence[MicroBatch], ranks: Ranks, cfg: ObjectiveConfig) -> Bounds:
    """Lowest and highest ratio of loss m2po, from proximal - behaviour of the mini-batch's tokens on all ranks. Collective.

    In a batch's later updates that is the ratio to the sampler as it was at the batch's start. Waits for the device. Tokens
    of spare micro-batches get the log-ratio 0, which no bound depends on.
    """
    log_ratios, advantages = [], []
    for micro in micros:
        assert micro.proximal is not None
        log_ratios.append(finite_difference(micro.proximal, micro.behaviour) * (micro.weight > 0))
        advantages.append(micro.advantage)
    mine = torch.stack((torch.cat(log_ratios), torch.cat(advantages))).double().cpu()
    log_ratio, advantage = torch.cat(ranks.gather_ragged(mine), dim=1)
    return second_moment_bounds(log_ratio, advantage, budget=cfg.second_moment)
