"""Our side: the loss of a set of rollouts and its gradient, from the learner's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Advantage, Correction
from prolong.learner.algorithm.advantages import batch_advantages
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.algorithm.objective import LossParts, PolicyTerms, micro_loss
from prolong.learner.algorithm.samples import set_weights
from prolong.learner.batches.packing import MicroBatch, Sample
from prolong.learner.ranks import Ranks
from torch import Tensor

from tests.parity.rollouts import Rollouts


def loss_and_gradient(loss: Tensor, policy: Tensor, tokens: Tensor) -> Tensor:
    """[1 + M]: a loss, then its gradient with respect to the log-probabilities `policy` at the M places where `tokens` is."""
    loss.backward()
    assert policy.grad is not None
    assert not policy.grad[~tokens].any()
    return torch.cat([loss.detach().reshape(1), policy.grad[tokens]])


def objective(**changes: Any) -> ObjectiveConfig:
    """The objective's configuration: decoupled, and without a KL term, unless `changes` say otherwise."""
    return ObjectiveConfig(**{"kl_beta": 0.0, "correction": Correction.decoupled, **changes})


def parts_of(rollouts: Rollouts, cfg: ObjectiveConfig, policy: Tensor, entropy: Tensor, bonus: float = 0.0) -> LossParts:
    """The learner's loss of one micro-batch, per token."""
    nothing = torch.zeros(0, dtype=torch.int64)
    micro = MicroBatch(
        input_ids=nothing,
        position_ids=nothing,
        plan=None,
        source=nothing,
        target=nothing,
        behaviour=rollouts.behaviour,
        advantage=rollouts.advantage[rollouts.rollout],
        weight=token_weights(rollouts, cfg),
        temperature=torch.ones_like(policy),
        staleness=torch.zeros_like(policy),
        comparable=torch.zeros_like(policy, dtype=torch.bool),
        rollout=rollouts.rollout,
        num_rollouts=len(rollouts.lengths),
        group=rollouts.group,
        groups=[],
        proximal=rollouts.proximal,
        reference=rollouts.reference if cfg.kl_beta > 0 else None,
    )
    token_loss = build_loss(cfg).for_mini_batch([micro], Ranks())
    return micro_loss(micro, policy, entropy, cfg, token_loss=token_loss, bonus=bonus)


def terms_of(rollouts: Rollouts, cfg: ObjectiveConfig) -> PolicyTerms:
    """The policy loss's terms, per token."""
    return parts_of(rollouts, cfg, rollouts.policy, torch.zeros_like(rollouts.policy)).terms


def token_weights(rollouts: Rollouts, cfg: ObjectiveConfig) -> Tensor:
    """[M] weights of the update that has these rollouts."""
    samples = [_sample(int(group), int(length)) for group, length in zip(rollouts.group, rollouts.lengths, strict=True)]
    set_weights(samples, cfg)
    return torch.tensor([sample.weight for sample in samples], dtype=torch.float64)[rollouts.rollout]


def loss_of(rollouts: Rollouts, cfg: ObjectiveConfig, *, entropy: Tensor | None = None, bonus: float = 0.0) -> Tensor:
    """The whole loss, token weights applied, and its gradient: [1 + M]. entropy [M], of which `bonus` is the coefficient."""
    policy = rollouts.policy.clone().requires_grad_()
    parts = parts_of(rollouts, cfg, policy, torch.zeros_like(policy) if entropy is None else entropy, bonus)
    total = (token_weights(rollouts, cfg) * parts.total).sum()
    return loss_and_gradient(total, policy, torch.ones_like(policy, dtype=torch.bool))


def advantages_of(rollouts: Rollouts, kind: Advantage) -> Tensor:
    """[R] advantages of the rollouts' rewards."""
    members = [rollouts.group == group for group in rollouts.group.unique()]
    rewards = [rollouts.rewards[rows].numpy() for rows in members]
    groups = batch_advantages(rewards, [rollouts.lengths[rows].numpy() for rows in members], kind)
    return torch.from_numpy(np.concatenate(groups))


def _sample(group: int, length: int) -> Sample:
    return Sample(
        group=group,
        prompt=np.zeros(1, np.int32),
        completion=np.zeros(length, np.int32),
        behaviour=np.zeros(length, np.float32),
        keep=np.ones(length, bool),
        staleness=np.zeros(length, np.int32),
        temperature=1.0,
        reward=0.0,
    )
