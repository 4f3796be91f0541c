"""Rewards shaped by length, before advantages. With the default RewardsConfig nothing changes.

In this order, for a rollout of t tokens where T = max_tokens:
    truncated: a rollout that hit T has its reward multiplied by a coefficient        ProRL, arXiv 2507.12507: 0 in stages 4, 5
    cosine:    positive rewards times min + (max - min) (1 + cos(pi t / T)) / 2       ProRL v2, in cycles of on and off steps
    overlong:  minus penalty * clip((t - (1 - share) T) / (share T), 0, 1)            DAPO, 2503.14476, equation 13
"""

from __future__ import annotations

import numpy as np

from ...common.config.algorithm import RewardsConfig
from ...common.types import FinishReason, Group


def rewards_of(group: Group) -> np.ndarray:
    """Read the rewards [n] float64 of a group. Raises: ValueError for a rollout without one, which no buffer hands out."""
    rewards = [rollout.verdict.reward for rollout in group.rollouts]
    if any(reward is None for reward in rewards):
        raise ValueError(f"group {group.ordinal}: a rollout without a reward reached the learner; the actor must drop those")
    return np.array(rewards, dtype=np.float64)


def shaped_rewards_of(group: Group, version: int, cfg: RewardsConfig) -> np.ndarray:
    """Compute the rewards [n] float64 that a group's advantages are made of, at the step that starts from `version`."""
    return shape_rewards(
        rewards_of(group),
        np.array([rollout.num_tokens for rollout in group.rollouts]),
        np.array([rollout.finish_reason is FinishReason.length for rollout in group.rollouts]),
        max_tokens=group.sampling.max_tokens,
        version=version,
        cfg=cfg,
    )


def shape_rewards(
    rewards: np.ndarray, lengths: np.ndarray, truncated: np.ndarray, *, max_tokens: int, version: int, cfg: RewardsConfig
) -> np.ndarray:
    """Shape the rewards [n] of one group: [n] float64.

    lengths [n] tokens; truncated [n] bool: ended by max_tokens; version: of the policy that the step starts from.
    """
    shaped = np.where(truncated, cfg.truncated * rewards, rewards).astype(np.float64)
    if cosine_active(version, cfg):
        factor = cfg.cosine_min + 0.5 * (cfg.cosine_max - cfg.cosine_min) * (1.0 + np.cos(np.pi * lengths / max_tokens))
        shaped = np.where(shaped > 0, factor * shaped, shaped)
    if cfg.overlong_share > 0:
        excess = (lengths / max_tokens - (1.0 - cfg.overlong_share)) / cfg.overlong_share
        shaped = shaped - cfg.overlong_penalty * np.clip(excess, 0.0, 1.0)
    return shaped


def cosine_active(version: int, cfg: RewardsConfig) -> bool:
    """Whether the cosine factor applies in the step from `version`: in the first cosine_on of every cosine_on + cosine_off."""
    return cfg.cosine_on > 0 and version % (cfg.cosine_on + cfg.cosine_off) < cfg.cosine_on
