"""Advantages: how much better a rollout is than the others of its group.

    group_std      (R - mean) / (std + 1e-6)    GRPO, arXiv 2402.03300, section 4.1.2; sample deviation (n - 1), as in verl, TRL
    group_mean     R - mean                     Dr.GRPO, 2503.20783
    leave_one_out  R - mean of the others       RLOO, 2402.14740
    global_norm    R - mean, then normalised over the tokens of the batch    REINFORCE++ baseline, 2501.03262
A group whose rewards are all the same gets zeros, and so does a group of one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...common.config.choices import Advantage

STD_EPSILON = 1e-6
LEAST_VARIANCE = 1e-8

# rewards [n] of one group, not all the same -> advantages [n]
GroupRule = Callable[[np.ndarray], np.ndarray]
# (rewards, lengths), one array [n] per group -> advantages, one array [n] per group
BatchRule = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray]]


def batch_advantages(rewards: list[np.ndarray], lengths: list[np.ndarray], kind: Advantage) -> list[np.ndarray]:
    """Compute the advantages of a batch, one array [n] float64 per group.

    rewards, lengths: one array [n] per group; lengths count the tokens of each rollout.
    """
    return ADVANTAGES[kind](rewards, lengths)


def group_std(rewards: np.ndarray) -> np.ndarray:
    """(R - mean) / (std + 1e-6)."""
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + STD_EPSILON)


def group_mean(rewards: np.ndarray) -> np.ndarray:
    """R - mean."""
    return rewards - rewards.mean()


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """R - mean of the others."""
    return (rewards - rewards.mean()) * (len(rewards) / (len(rewards) - 1))


def in_each_group(rule: GroupRule) -> BatchRule:
    """Apply a rule to every group by itself, with zeros for groups whose rewards are all the same."""

    def over_batch(rewards: list[np.ndarray], lengths: list[np.ndarray]) -> list[np.ndarray]:
        return [np.zeros(len(group)) if group.min() == group.max() else rule(group) for group in rewards]

    return over_batch


def global_norm(rewards: list[np.ndarray], lengths: list[np.ndarray]) -> list[np.ndarray]:
    """R - mean in each group, then normalised over all tokens of the batch."""
    return normalise_globally(in_each_group(group_mean)(rewards, lengths), lengths)


def normalise_globally(advantages: list[np.ndarray], lengths: list[np.ndarray]) -> list[np.ndarray]:
    """Compute (A - mean) / std over all tokens of the batch: each rollout counts as often as it has tokens.

    advantages and lengths: one array [n] per group. The variance is the population's, at least 1e-8.
    """
    values, weights = np.concatenate(advantages), np.concatenate(lengths).astype(np.float64)
    total = max(weights.sum(), 1.0)
    mean = (weights * values).sum() / total
    variance = (weights * np.square(values - mean)).sum() / total
    deviation = np.sqrt(max(variance, LEAST_VARIANCE))
    return [(group - mean) / deviation for group in advantages]


ADVANTAGES: dict[Advantage, BatchRule] = {
    Advantage.group_std: in_each_group(group_std),
    Advantage.group_mean: in_each_group(group_mean),
    Advantage.leave_one_out: in_each_group(leave_one_out),
    Advantage.global_norm: global_norm,
}
