"""Counts of what was dropped, refused or retried: over the run, and since the last batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

ALWAYS_REPORTED = (
    "buffer/filtered",
    "buffer/bypassed",
    "buffer/evicted",
    "buffer/failed_groups",
    "buffer/lost_leases",
    "buffer/duplicates",
    "buffer/handed_over",
    "buffer/saved_tokens",
    "buffer/lost_tokens",
    "validation/skipped_sweeps",
)


class Counters:
    """Named counts, `group/name`."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter(dict.fromkeys(ALWAYS_REPORTED, 0))
        self._step: Counter[str] = Counter()

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a count."""
        self.total[name] += amount
        self._step[name] += amount

    def restore(self, total: Mapping[str, int]) -> None:
        """Go on from the recorded counts of a run."""
        self.total.update(total)

    def next_step(self) -> dict[str, float]:
        """The counts since the last call; 0 for names that were counted before it only."""
        step = {name: float(self._step[name]) for name in self.total}
        self._step.clear()
        return step
