"""Advantages: how much better a rollout is than the others of its group.

    group_std      (R - mean) / (std + 1e-6)    GRPO, arXiv 2402.03300, section 4.1.2; sample deviation (n - 1), as in verl, TRL
    group_mean     R - mean                     Dr.GRPO, 2503.20783
    leave_one_out  R - mean of the others       RLOO, 2402.14740
    global_norm    R - mean, then normalised over the tokens of the batch    REINFORCE++ baseline, 2501.03262
A group whose rewards are all the same gets zeros, and so does a group of one.
"""

from __future__ import annotations

import numpy as np

from ...common.config.choices import Advantage
from ...common.types import Group

STD_EPSILON = 1e-6
LEAST_VARIANCE = 1e-8


def group_advantages(rewards: np.ndarray, kind: Advantage) -> np.ndarray:
    """Advantages [n] float64 of one group's rewards [n]; of global_norm the part that one group can tell, R - mean."""
    if rewards.min() == rewards.max():
        return np.zeros(len(rewards))
    centred = rewards - rewards.mean()
    match kind:
        case Advantage.group_std:
            return centred / (rewards.std(ddof=1) + STD_EPSILON)
        case Advantage.leave_one_out:
            return centred * (len(rewards) / (len(rewards) - 1))
        case Advantage.group_mean | Advantage.global_norm:
            return centred


def normalise_globally(advantages: list[np.ndarray], lengths: list[np.ndarray]) -> list[np.ndarray]:
    """The second half of global_norm: (A - mean) / std over all tokens of the batch, each rollout weighing its length.

    advantages and lengths (tokens in the loss): one array [n] per group. The variance is the population's, at least 1e-8.
    """
    values, weights = np.concatenate(advantages), np.concatenate(lengths).astype(np.float64)
    total = max(weights.sum(), 1.0)
    mean = (weights * values).sum() / total
    variance = (weights * np.square(values - mean)).sum() / total
    deviation = np.sqrt(max(variance, LEAST_VARIANCE))
    return [(group - mean) / deviation for group in advantages]


def rewards_of(group: Group) -> np.ndarray:
    """Rewards [n] float64. The buffer stores verified rollouts only; one without a reward is a broken group."""
    rewards = [rollout.verdict.reward for rollout in group.rollouts]
    if any(reward is None for reward in rewards):
        raise ValueError(f"group {group.ordinal}: a rollout without a reward reached the learner; the actor must drop those")
    return np.array(rewards, dtype=np.float64)
