"""A source of weights as a puller knows it from one pull to the next: its connections, its failures, its back-off."""

from __future__ import annotations

import random
from collections.abc import Callable

from ...errors import WeightsError
from ...types import WeightSource
from .link import Link
from .window import Window

BACKOFF_S = 0.2  # after the first failure of a source; twice as long after each more
MAX_BACKOFF_S = 8.0


class Origin:
    """One source."""

    def __init__(self, source: WeightSource, window: Window) -> None:
        self.source, self.window = source, window
        self.link: Link | None = None
        self.num_failures = 0  # since it last gave a whole body
        self.retry_at = 0.0  # not before this time
        self.num_tampered = 0  # bodies with wrong bytes, of this pull
        self.is_out = False  # of this pull: it has another version, or sent too much that was wrong
        self.last_error = "not asked yet"

    def begin(self) -> None:
        """A pull begins."""
        self.num_tampered, self.is_out = 0, False

    def connected(self, connect: Callable[[], Link]) -> Link:
        """The connections, made again if one of them broke while nothing was pulled."""
        if self.link is not None and self.link.is_broken():
            self.disconnect()
        if self.link is None:
            self.link = connect()
        return self.link

    def disconnect(self) -> None:
        """Drop the connections, and what is on its way."""
        if self.link is not None:
            self.link.close()
            self.link = None

    def fail(self, error: WeightsError, now: float) -> None:
        """It does not work: leave it alone for a while."""
        self.disconnect()
        self.retry_at = now + min(BACKOFF_S * 2.0 ** min(self.num_failures, 10), MAX_BACKOFF_S) * random.uniform(0.5, 1.5)
        self.num_failures += 1
        self.last_error = str(error)

    def succeed(self) -> None:
        """It gave a whole body with the right bytes."""
        self.num_failures = 0
