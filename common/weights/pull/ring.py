"""The last deltas of each chunk, by which a store brings others from one version to a later one.

Those of a chunk are kept while they are smaller together than the chunk. A longer chain would cost more than the chunk itself,
and so all of them never take more memory than the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

DELTAS_KEPT = 64  # of one chunk; empty ones count


class Step(NamedTuple):
    """A delta that can be given: it turns version `base` of a chunk into `version`."""

    base: int
    version: int
    payload: bytes


class DeltaRing:
    """The deltas of all chunks of a model, in the versions of one session. The caller's lock protects it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes`: bytes of each chunk; 0 for one whose deltas nobody will want."""
        self._sizes = sizes
        self.steps: list[deque[Step]] = [deque() for _ in sizes]

    def keep(self, index: int, step: Step) -> None:
        """Add the newest delta of a chunk; the oldest make room for it."""
        steps = self.steps[index]
        steps.append(step)
        num_bytes = sum(len(kept.payload) for kept in steps)
        while steps and (len(steps) > DELTAS_KEPT or num_bytes >= self._sizes[index]):
            num_bytes -= len(steps.popleft().payload)

    def forget(self, index: int) -> None:
        """No delta leads to what the chunk is now."""
        self.steps[index].clear()

    def forget_all(self) -> None:
        """Another session begins."""
        for steps in self.steps:
            steps.clear()

    def chain(self, index: int, have: int | None, target: int) -> list[tuple[int, bytes]] | None:
        """The deltas from `have` to `target` of a chunk, with the version after each; None if one is not there."""
        chain: list[tuple[int, bytes]] = []
        at = target
        for step in reversed(self.steps[index]):
            if step.version == at and at != have:
                chain.append((step.version, step.payload))
                at = step.base
        return chain[::-1] if chain and at == have else None
