"""Where a client's messages wait for the thread or coroutine that asked for their types.

Filled by the client's I/O thread; emptied by any thread (`take`, `try_take`) or event loop (`take_async`).
What arrived before the end is delivered before the end is raised: a Finished is never lost behind a Stop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from time import monotonic
from typing import Any

from ...common.errors import DeadlineExceeded, ProlongError


class Inbox:
    """Messages of some types, in order of arrival."""

    def __init__(self, names: str) -> None:
        self._names = names  # for error messages: "Tickets or UpdateWeights"
        self._items: deque[Any] = deque()
        self._end: ProlongError | None = None
        self._changed = threading.Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def take(self, timeout_s: float) -> Any:
        """The next message. Blocks.

        Raises: DeadlineExceeded; RunStopped, BufferUnreachable or HandshakeRefused once nothing more can come.
        """
        deadline = monotonic() + timeout_s
        with self._changed:
            while not self._ready():
                remaining = deadline - monotonic()
                if remaining <= 0:
                    raise self._late(timeout_s)
                self._changed.wait(remaining)
            return self._pop()

    def try_take(self) -> Any:
        """The next message, or None. Raises like `take`, except DeadlineExceeded."""
        with self._changed:
            return self._pop() if self._ready() else None

    async def take_async(self, timeout_s: float) -> Any:
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
                await asyncio.wait_for(sleeper, max(0.0, deadline - monotonic()))
            except TimeoutError:
                with self._changed:
                    if not self._ready():
                        raise self._late(timeout_s) from None
            finally:
                with self._changed:
                    if entry in self._sleepers:
                        self._sleepers.remove(entry)

    def put(self, message: Any) -> None:
        """I/O thread only."""
        with self._changed:
            self._items.append(message)
            self._wake()

    def end(self, error: ProlongError) -> None:
        """I/O thread only: nothing more will come; the first reason stays."""
        with self._changed:
            self._end = self._end or error
            self._wake()

    def _ready(self) -> bool:
        return bool(self._items) or self._end is not None

    def _pop(self) -> Any:
        if self._items:
            return self._items.popleft()
        assert self._end is not None
        raise self._end.with_traceback(None)

    def _late(self, timeout_s: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"no {self._names} from the buffer within {timeout_s:g} s")

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, sleeper in self._sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, sleeper)
        self._sleepers.clear()


def _resolve(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
