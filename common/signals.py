"""SIGTERM and SIGINT as a request to stop or as an error, and a signal at the death of the parent."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class StopRequest(threading.Event):
    """A request to stop, and how long ago it came."""

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0

    def set(self) -> None:
        """Ask to stop; further requests change nothing."""
        # also because a second signal may come while the first one's handler is inside `set`, with the event's lock taken
        if not self._since:
            self._since = monotonic()
            super().set()

    def age_s(self) -> float:
        """Seconds since the request; 0 without one."""
        return monotonic() - self._since if self._since else 0.0


@contextmanager
def stop_on_signals(stop: threading.Event, consequence: str = "stopping") -> Iterator[None]:
    """Make SIGTERM and SIGINT set `stop` inside the block instead of killing the process; the former handlers come back.

    `consequence` is logged after the signal's name. Only the main thread of a process may enter.
    """

    def request_stop(number: int, _: object) -> None:
        log.warning("%s: %s", signal.Signals(number).name, consequence)
        stop.set()

    with _handled_by(request_stop):
        yield


class Interrupted(BaseException):
    """Raised by a signal's handler to end a block, which makes an error of it.

    Like KeyboardInterrupt it passes whatever handles any Exception. An Exception would end in somebody's `except Exception`, or
    make `Thread.start` forget a thread that has started already.
    """


@contextmanager
def leave_on_signals(stop: threading.Event, error: Exception) -> Iterator[None]:
    """Make SIGTERM and SIGINT set `stop` and end the block with `error`: for work that may be given up at any point.

    Raises `error` also when `stop` was set before. Only the main thread of a process may enter.
    """

    def leave(number: int, _: object) -> None:
        log.warning("%s: leaving at once", signal.Signals(number).name)
        stop.set()
        raise Interrupted

    try:
        with _handled_by(leave):
            if stop.is_set():
                raise error
            yield
    except Interrupted:
        raise error from None


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def die_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Make the kernel send `signum` to this process when the thread that started it ends. Linux only.

    `parent`: the expected pid of the parent; when the parent has ended already, this process sends itself `signum`.
    """
    if _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)
