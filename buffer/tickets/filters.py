"""Dynamic sampling: a group whose rewards carry no signal is dropped and replaced, at most so often a step.

Judged on the rewards as verified. Without a cap, a policy that solves everything would generate for ever and never train.
Source: DAPO (arXiv 2503.14476), section 3.2; for continuous rewards "no signal" is zero spread.
"""

from __future__ import annotations

from enum import StrEnum

from ...common.types import Group

SPREAD_TOLERANCE = 1e-8  # rewards closer than this are the same reward


class Judgement(StrEnum):
    """What becomes of a group."""

    keep = "keep"
    drop = "drop"  # no signal
    bypass = "bypass"  # no signal, but enough were dropped in this step


def has_signal(group: Group) -> bool:
    """Whether the rewards of the group differ. Every verdict must have a reward."""
    rewards = [rollout.verdict.reward for rollout in group.rollouts]
    known = [reward for reward in rewards if reward is not None]
    assert len(known) == len(rewards), "a rollout without a reward reached the filter"
    return max(known) - min(known) > SPREAD_TOLERANCE


class SignalFilter:
    """Drops groups without signal, at most `limit` between two batches."""

    def __init__(self, *, enabled: bool, limit: int) -> None:
        self._enabled = enabled
        self._limit = limit
        self.dropped = 0  # since the last batch

    def judge(self, group: Group) -> Judgement:
        """What becomes of this group; counts what it drops."""
        if not self._enabled or has_signal(group):
            return Judgement.keep
        if self.dropped >= self._limit:
            return Judgement.bypass
        self.dropped += 1
        return Judgement.drop

    def next_step(self) -> None:
        """A batch was formed: the count starts anew."""
        self.dropped = 0
