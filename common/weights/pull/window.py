"""How many bytes a puller lets a server send ahead, and how long it bears silence: both follow the link as it is. No clock."""

from __future__ import annotations

from .protocol import PIECE_BYTES

MIN_BYTES = 8 << 20  # fills 1 Gbit/s at 60 ms, and loopback
MAX_BYTES = 64 << 20
FIRST_SILENCE_S = 10.0  # before anything is known of a link; half of it once the rate is
MAX_SILENCE_S = 60.0
SAMPLE_S = 0.5  # over which the rate is measured, at least


class Window:
    """What is known of the link to one source."""

    def __init__(self, num_streams: int, max_rate: float) -> None:
        """`max_rate`: of `weights.max_mb_s`, in bytes a second; 0: no limit."""
        self._num_streams, self._max_rate = num_streams, max_rate
        self._round_trip_s = 0.0
        self._rate = 0.0  # bytes a second
        self._sampled_bytes, self._sampled_at = 0, -1.0

    def note_round_trip(self, seconds: float) -> None:
        """A question was answered after so long. The shortest counts: the others waited for something."""
        self._round_trip_s = min(self._round_trip_s or seconds, seconds)

    def note_pause(self) -> None:
        """Nothing is asked for now: the time until more comes says nothing of the rate."""
        self._sampled_at = -1.0

    def note_bytes(self, num_bytes: int, now: float) -> None:
        """So many bytes came."""
        if self._sampled_at < 0:
            self._sampled_bytes, self._sampled_at = 0, now
            return
        self._sampled_bytes += num_bytes
        elapsed_s = now - self._sampled_at
        if elapsed_s >= max(SAMPLE_S, 2 * self._round_trip_s):
            self._rate = max(self._sampled_bytes / elapsed_s, self._rate / 2)
            self._sampled_bytes, self._sampled_at = 0, now

    def stream_bytes(self) -> int:
        """That one connection may be sent ahead: twice what the link holds, and a little more."""
        size = min(max(MIN_BYTES, int(2 * self._rate * self._round_trip_s) + MIN_BYTES // 2), MAX_BYTES)
        if self._max_rate:
            size = min(size, max(PIECE_BYTES, int(self._max_rate)))
        return max(size // self._num_streams, PIECE_BYTES)

    def silence_s(self, num_failures: int) -> float:
        """Without a word for so long, the source counts as gone. Longer on a slow link; twice as long after each failure."""
        limit_s = FIRST_SILENCE_S
        if self._rate:
            limit_s = FIRST_SILENCE_S / 2 + 4 * (self._round_trip_s + self._num_streams * PIECE_BYTES / self._rate)
        return min(limit_s * 2.0 ** min(num_failures, 10), MAX_SILENCE_S)
