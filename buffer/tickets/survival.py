"""Survival by length: the share of groups offered to the learner that were trained, by decile of completion length.

A staleness bound that costs long answers shows here: `evict` drives the last deciles below 1, `wait` keeps all of them at 1.
Filtered groups do not count: the bound did not drop them.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ...common.types import Group

DECILES = 10


class Survival:
    """The last `window` groups that were batched, or dropped because they were too old."""

    def __init__(self, window: int = 4096) -> None:
        self._groups: deque[tuple[float, bool]] = deque(maxlen=window)  # (mean tokens a rollout, survived)

    def record(self, group: Group, survived: bool) -> None:
        """Count a group that was batched (survived) or dropped as stale."""
        num_tokens = sum(rollout.num_tokens for rollout in group.rollouts)
        self._groups.append((num_tokens / max(len(group.rollouts), 1), survived))

    def rates(self) -> dict[str, float]:
        """`buffer/survival_d0` (shortest) .. `d9` (longest); empty below ten groups."""
        if len(self._groups) < DECILES:
            return {}
        lengths, survived = np.asarray(self._groups, dtype=np.float64).T
        order = np.argsort(lengths, kind="stable")
        return {f"buffer/survival_d{k}": float(part.mean()) for k, part in enumerate(np.array_split(survived[order], DECILES))}
