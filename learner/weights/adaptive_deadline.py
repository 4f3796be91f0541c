"""How long one stage of a broadcast may take before somebody in it counts as silent: learned, not configured.

A stage is the join of a group, one bucket, or the wait for the acknowledgements. Two seconds and twice the slowest that went
well lately: a stopped actor holds up the others for seconds, whatever the model's size. After a failure, which may have been
mere slowness, patience doubles until a broadcast goes well, so that a slow machine gets there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SLACK_S = 2.0  # for what is not the transfer: an engine's step, a busy core
FIRST_S = 10.0  # while nothing was measured
FACTOR = 2.0
MEMORY = 20  # broadcasts whose slowest stage is remembered


class Patience:
    """Seconds that one stage may take; at most `limit_s`. No clock: the caller measures."""

    def __init__(self, limit_s: float, *, slack_s: float = SLACK_S) -> None:
        self._limit_s, self._slack_s = limit_s, slack_s
        self._slowest: deque[float] = deque(maxlen=MEMORY)
        self._backoff = 1.0

    @property
    def seconds(self) -> float:
        """The patience of the next broadcast."""
        base_s = self._slack_s + FACTOR * max(self._slowest) if self._slowest else FIRST_S
        return min(self._backoff * base_s, self._limit_s)

    def went_well(self, stages_s: Iterable[float]) -> None:
        """Every member has the weights; these were the stages."""
        self._slowest.append(max(stages_s))
        self._backoff = 1.0

    def failed(self) -> None:
        """Somebody does not have them."""
        if self.seconds < self._limit_s:
            self._backoff *= 2
