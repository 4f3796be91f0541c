"""Dynamic sampling: groups whose rewards carry no signal are dropped and replaced, up to a limit for each step.

The filter looks at rewards as they were verified. Without the limit, a policy that solves everything would generate for ever
and never train.
Source: DAPO (arXiv 2503.14476), section 3.2; for continuous rewards "no signal" is zero spread.
"""

from __future__ import annotations

from enum import StrEnum

from ...common.types import Group

SPREAD_TOLERANCE = 1e-8  # rewards closer than this are the same reward


class Judgement(StrEnum):
    """The filter's answer for one group."""

    keep = "keep"
    drop = "drop"  # no signal
    bypass = "bypass"  # no signal, but the limit of this step is reached


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
        """Judge one group; a dropped group is counted."""
        if not self._enabled or has_signal(group):
            return Judgement.keep
        if self.dropped >= self._limit:
            return Judgement.bypass
        self.dropped += 1
        return Judgement.drop

    def next_step(self) -> None:
        """A batch was formed: count from 0 again."""
        self.dropped = 0

    def restore(self, dropped: int) -> None:
        """Go on from the recorded number of groups dropped since the last batch."""
        self.dropped = dropped
