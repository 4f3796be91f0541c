"""verl's side: the functions of verl.trainer.ppo, with a real ActorConfig."""

# pyright: reportMissingImports=false
# TRL and verl are in .venv-parity alone

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.trainer.config.algorithm import RolloutCorrectionConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig

from tests.parity.ours import loss_and_gradient
from tests.parity.rollouts import Rollouts

NO_DUAL_CLIP = 1e9  # verl's dual clip cannot be switched off


def actor(*, correction: RolloutCorrectionConfig | None = None, **settings: Any) -> ActorConfig:
    """verl's actor configuration: `settings`, and verl's defaults for everything else except the dual clip."""
    policy_loss = PolicyLossConfig(rollout_correction=correction or RolloutCorrectionConfig())
    clip = {"clip_ratio_c": NO_DUAL_CLIP}
    return ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, policy_loss=policy_loss, **{**clip, **settings})


def global_batch(rollouts: Rollouts, **more: Any) -> dict[str, Any]:
    """The entries that verl's engines add to every update's configuration: denominators over all ranks and micro-batches."""
    return {"dp_size": 1, "batch_num_tokens": int(rollouts.lengths.sum()), "global_batch_size": len(rollouts.lengths), **more}


def correct(rollouts: Rollouts, **settings: Any) -> tuple[Tensor | None, Tensor]:
    """Weights [R, T] and mask [R, T] of verl's rollout correction, from proximal and behaviour policy."""
    weights, mask, _ = compute_rollout_correction_and_rejection_mask(
        old_log_prob=rollouts.padded(rollouts.proximal),
        rollout_log_prob=rollouts.padded(rollouts.behaviour, padding=0.0),
        response_mask=rollouts.mask.double(),
        **settings,
    )
    return (None if weights is None else weights.batch["rollout_is_weights"]), mask


def loss_of(
    rollouts: Rollouts,
    config: ActorConfig,
    *,
    name: str = "vanilla",
    old: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    kl: tuple[float, str] | None = None,
) -> Tensor:
    """The registered policy loss `name`, plus the KL loss (coefficient, estimator) as verl's ppo_loss adds it: [1 + M].

    old: [M], the proximal policy if not given. mask: [R, T], all tokens if not given.
    """
    policy = rollouts.padded(rollouts.policy).requires_grad_()
    mask = rollouts.mask.double() if mask is None else mask
    loss, _ = core_algos.get_policy_loss_fn(name)(
        old_log_prob=rollouts.padded(rollouts.proximal if old is None else old),
        log_prob=policy,
        advantages=rollouts.padded(rollouts.advantage[rollouts.rollout]),
        response_mask=mask,
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        rollout_is_weights=weights,
    )
    if kl is not None:
        penalty = core_algos.kl_penalty(policy, rollouts.padded(rollouts.reference), kl[1])
        loss = loss + kl[0] * core_algos.agg_loss(penalty, mask, config.loss_agg_mode, **config.global_batch_info)
    return loss_and_gradient(loss, policy, rollouts.mask)


def advantages_of(rollouts: Rollouts, estimator: str, **settings: Any) -> Tensor:
    """[R] advantages by verl's estimator; it gives every token of a rollout the same."""
    mask = rollouts.mask.double()
    last = torch.nn.functional.one_hot(rollouts.lengths - 1, mask.shape[1]).double()
    advantages, _ = core_algos.get_adv_estimator_fn(estimator)(
        token_level_rewards=last * rollouts.rewards[:, None],
        response_mask=mask,
        index=np.array([f"prompt {group}" for group in rollouts.group.tolist()]),
        **settings,
    )
    spread = (advantages - advantages[:, :1]) * mask
    assert not spread.any()
    return advantages[:, 0]
