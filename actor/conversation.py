"""The parts of the buffer's client that the loops of actor and relay need, and the wait for its next message."""

from __future__ import annotations

import contextlib
from typing import Protocol, TypeVar

from ..common.errors import DeadlineExceeded
from ..common.messages import FromBuffer, FromClient

CONNECT_S = 120.0  # how long a buffer that starts later is waited for
QUIET_S = 60.0  # deadline of one wait for a message

M = TypeVar("M", bound=FromBuffer, covariant=True)


class Outbox(Protocol):
    """What the loops need of `BufferClient`: neither method blocks."""

    def send(self, message: FromClient) -> None: ...

    def set_stats(self, stats: dict[str, float], room: int | None = None) -> None: ...


class Arrivals(Protocol[M]):
    """What the loops need of `Inbox`."""

    async def take_async(self, timeout_s: float) -> M:
        """The next message. Raises DeadlineExceeded after `timeout_s`, RunStopped, or BufferUnreachable."""
        ...


async def next_message(inbox: Arrivals[M]) -> M:
    """The next message, however long it takes: the inbox itself reports a dead buffer, and silence is none."""
    while True:
        with contextlib.suppress(DeadlineExceeded):
            return await inbox.take_async(QUIET_S)
