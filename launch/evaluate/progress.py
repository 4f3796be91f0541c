"""How far an evaluation is: a line to stderr every few seconds."""

from __future__ import annotations

import sys
import time

from ...common.types import Group
from ..summary import format_duration

TELL_S = 5.0


class RolloutProgress:
    """Counts the groups of one model."""

    def __init__(self, name: str, num_missing: int, num_all: int) -> None:
        self._name, self._num_missing, self._num_all = name, num_missing, num_all
        self._begun_s = self._told_s = time.monotonic()
        self._rollouts = self._tokens = 0
        self._reward = 0.0

    def count(self, group: Group) -> None:
        """A ticket ended."""
        self._rollouts += 1
        self._tokens += sum(rollout.num_tokens for rollout in group.rollouts)
        self._reward += sum(rollout.verdict.reward or 0.0 for rollout in group.rollouts)
        now = time.monotonic()
        if now - self._told_s > TELL_S or self._rollouts == self._num_missing:
            self._told_s = now
            self._tell(now - self._begun_s)

    def _tell(self, passed_s: float) -> None:
        done = self._num_all - self._num_missing + self._rollouts
        left_s = passed_s / self._rollouts * (self._num_missing - self._rollouts)
        speed = self._tokens / max(passed_s, 1e-9)
        sys.stderr.write(
            f"{self._name}: {done:,} of {self._num_all:,} rollouts, mean reward so far {self._reward / self._rollouts:.3f}, "
            f"{speed:,.0f} tokens/s, {format_duration(left_s)} left\n"
        )
