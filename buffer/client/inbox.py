"""Where messages of the buffer wait for the part of a client that wants them.

I/O thread --offer, end--> Inbox --take--> any thread or event loop
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from time import monotonic
from typing import Generic, TypeVar

from ...common.errors import DeadlineExceeded, ProlongError
from ...common.message_kinds import BufferMessage

M = TypeVar("M", bound=BufferMessage)


class Inbox(Generic[M]):
    """Messages of some types, in order of arrival, for any thread (`take`, `try_take`) or event loop (`take_async`).

    Messages that arrived before the end are delivered before the end is raised: a Finished is never lost behind a Stop.
    """

    def __init__(self, *kinds: type[M]) -> None:
        self._kinds = kinds
        self._items: deque[M] = deque()
        self._end: ProlongError | None = None
        self._changed = threading.Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def take(self, timeout_s: float) -> M:
        """The next message. Blocks.

        Raises: DeadlineExceeded; RunStopped, BufferUnreachable or HandshakeRefused once no more messages can come.
        """
        message = self.take_within(timeout_s)
        if message is None:
            raise self._late(timeout_s)
        return message

    def take_within(self, timeout_s: float) -> M | None:
        """The next message, or None if none comes in time. Blocks. Raises like `take`, except DeadlineExceeded."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while not self._ready():
                remaining = deadline - monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)
            return self._pop()

    def try_take(self) -> M | None:
        """The next message, or None. Raises like `take`, except DeadlineExceeded."""
        return self.take_within(0.0)

    async def take_async(self, timeout_s: float) -> M:
        """`take` for an event loop: the same contract. Cancelling it loses no message."""
        deadline = monotonic() + timeout_s
        while True:
            sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._changed:
                if self._ready():
                    return self._pop()
                entry = (asyncio.get_running_loop(), sleeper)
                self._sleepers.append(entry)
            try:
                # not wait_for: Python 3.11's forgets a cancellation that comes in the same moment as the message
                async with asyncio.timeout(max(0.0, deadline - monotonic())):
                    await sleeper
            except TimeoutError:
                with self._changed:
                    if not self._ready():
                        raise self._late(timeout_s) from None
            finally:
                with self._changed:
                    if entry in self._sleepers:
                        self._sleepers.remove(entry)

    def offer(self, message: BufferMessage) -> bool:
        """Keep a message of this inbox's types; False for others. I/O thread only."""
        if not isinstance(message, self._kinds):
            return False
        with self._changed:
            self._items.append(message)
            self._wake()
        return True

    def end(self, error: ProlongError) -> None:
        """No more messages will come; the first reason stays. I/O thread only."""
        with self._changed:
            self._end = self._end or error
            self._wake()

    def _ready(self) -> bool:
        return bool(self._items) or self._end is not None

    def _pop(self) -> M:
        if self._items:
            return self._items.popleft()
        assert self._end is not None
        raise self._end.with_traceback(None)

    def _late(self, timeout_s: float) -> DeadlineExceeded:
        names = " or ".join(kind.__name__ for kind in self._kinds)
        return DeadlineExceeded(f"no {names} from the buffer within {timeout_s:g} s")

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, sleeper in self._sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, sleeper)
        self._sleepers.clear()


def _resolve(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
