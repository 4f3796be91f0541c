"""How long one phase of a broadcast may take before a silent member is given up: learned from the broadcasts before.

A phase is reaching the members, sending one bucket, or waiting for the acknowledgements. It may take two seconds plus twice the
slowest phase of the last successful broadcasts: so a stopped actor delays the others for seconds, however large the model is.
A failure may have been mere slowness. After each one the deadline doubles, until a broadcast succeeds: so a slow machine gets
its weights in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

SLACK_S = 2.0  # for everything but the transfer: an engine's step, a busy core
GPU_SLACK_S = 6.0  # with GPUs, where NCCL needs seconds to connect the members of a new epoch
FIRST_S = 10.0  # before the first success
FACTOR = 2.0
MEMORY = 20  # broadcasts whose slowest phase is remembered


class AdaptiveDeadline:
    """Seconds that one phase may take, `limit_s` at most. No clock: the caller measures.

    Example:
        deadline = AdaptiveDeadline(60.0)
        deadline.phase_timeout_s          # 10.0: nothing was measured
        deadline.succeeded([0.01, 0.3])   # 2.6 from now on
        deadline.failed()                 # 5.2
    """

    def __init__(self, limit_s: float, *, slack_s: float = SLACK_S) -> None:
        self._limit_s, self._slack_s = limit_s, slack_s
        self._slowest: deque[float] = deque(maxlen=MEMORY)
        self._backoff = 1.0

    @property
    def phase_timeout_s(self) -> float:
        """For each phase of the next broadcast."""
        base_s = self._slack_s + FACTOR * max(self._slowest) if self._slowest else FIRST_S
        return min(self._backoff * base_s, self._limit_s)

    def succeeded(self, phases_s: Iterable[float]) -> None:
        """Every member acknowledged the weights, and the phases took `phases_s`."""
        self._slowest.append(max(phases_s))
        self._backoff = 1.0

    def failed(self) -> None:
        """At least one member did not get the weights."""
        if self.phase_timeout_s < self._limit_s:
            self._backoff *= 2
