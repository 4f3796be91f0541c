"""Advantages: how much better a rollout is than the others of its group.

Source: GRPO, arXiv 2402.03300, section 4.1.2 (group mean and standard deviation). The deviation is the sample deviation (n -
1), as in verl and TRL; a group whose rewards are all the same gets zeros.
"""

from __future__ import annotations

import numpy as np

from ..common.config import Advantage
from ..common.types import Group

STD_EPSILON = 1e-6


def group_advantages(rewards: np.ndarray, kind: Advantage) -> np.ndarray:
    """Advantages [n] float64 of one group's rewards [n]; group_std: (R - mean) / (std + 1e-6), group_mean: R - mean."""
    centred = rewards - rewards.mean()
    if kind is Advantage.group_mean or len(rewards) < 2:
        return centred
    return centred / (rewards.std(ddof=1) + STD_EPSILON)


def rewards_of(group: Group) -> np.ndarray:
    """Rewards [n] float64. The buffer stores verified rollouts only; one without a reward is a broken group."""
    rewards = [rollout.verdict.reward for rollout in group.rollouts]
    if any(reward is None for reward in rewards):
        raise ValueError(f"group {group.ordinal}: a rollout without a reward reached the learner; the actor must drop those")
    return np.array(rewards, dtype=np.float64)
