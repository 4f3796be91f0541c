"""The limit on megabytes a second, `weights.max_mb_s`: of what a process sends to pullers, and of what it pulls. No clock."""

from __future__ import annotations

BURST_S = 0.25  # of unused rate that may be caught up with
BYTES_PER_MB = 1_000_000


class Pace:
    """A token bucket whose level may fall below zero: bytes go out first, and the next ones wait until they are paid for.

    Example:
        pace = Pace(max_mb_s=10.0)
        if pace.wait_s(now) == 0.0:
            socket.send(piece)
            pace.spend(len(piece), now)
    """

    def __init__(self, max_mb_s: float) -> None:
        """`max_mb_s`: 0 for no limit."""
        self.rate = max_mb_s * BYTES_PER_MB  # bytes a second; 0: no limit
        self._level = 0.0  # bytes that may go out now, and below zero those still to be paid for
        self._at: float | None = None

    def wait_s(self, now: float) -> float:
        """Seconds until the next bytes may go out; 0 when they may go at once."""
        if not self.rate:
            return 0.0
        self._refill(now)
        # less than a byte is rounding
        return -self._level / self.rate if self._level < -1.0 else 0.0

    def spend(self, num_bytes: int, now: float) -> None:
        """Note that so many bytes went out."""
        if self.rate:
            self._refill(now)
            self._level -= num_bytes

    def _refill(self, now: float) -> None:
        elapsed_s = now - self._at if self._at is not None else BURST_S
        self._level = min(self._level + max(0.0, elapsed_s) * self.rate, BURST_S * self.rate)
        self._at = now
