"""How long one phase of a broadcast may take before somebody in it counts as silent: learned, not configured.

A phase is the join of a group, one bucket, or the wait for the acknowledgements. Two seconds and twice the slowest that went
well lately: a stopped actor holds up the others for seconds, whatever the model's size. After a failure, which may have been
mere slowness, the deadline doubles until a broadcast goes well, so that a slow machine gets there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SLACK_S = 2.0  # for what is not the transfer: an engine's step, a busy core
FIRST_S = 10.0  # while nothing was measured
FACTOR = 2.0
MEMORY = 20  # broadcasts whose slowest phase is remembered


class AdaptiveDeadline:
    """Seconds that one phase may take; at most `limit_s`. No clock: the caller measures."""

    def __init__(self, limit_s: float, *, slack_s: float = SLACK_S) -> None:
        self._limit_s, self._slack_s = limit_s, slack_s
        self._slowest: deque[float] = deque(maxlen=MEMORY)
        self._backoff = 1.0

    @property
    def phase_timeout_s(self) -> float:
        """The deadline of the next broadcast."""
        base_s = self._slack_s + FACTOR * max(self._slowest) if self._slowest else FIRST_S
        return min(self._backoff * base_s, self._limit_s)

    def succeeded(self, phases_s: Iterable[float]) -> None:
        """Every member has the weights; these were the phases."""
        self._slowest.append(max(phases_s))
        self._backoff = 1.0

    def failed(self) -> None:
        """Somebody does not have them."""
        if self.phase_timeout_s < self._limit_s:
            self._backoff *= 2
