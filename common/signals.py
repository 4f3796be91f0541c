"""SIGTERM and SIGINT as a request to stop, and a signal at the death of the parent."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def stop_on_signals(stop: threading.Event, consequence: str = "stopping") -> Iterator[None]:
    """Make SIGTERM and SIGINT set `stop` inside the block instead of killing the process; the former handlers come back.

    `consequence` is logged after the signal's name. Only the main thread of a process may enter.
    """

    def request_stop(number: int, _: object) -> None:
        log.warning("%s: %s", signal.Signals(number).name, consequence)
        stop.set()

    former = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def die_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Make the kernel send `signum` to this process when the thread that started it ends. Linux only.

    `parent`: the expected pid of the parent; when the parent has ended already, this process sends itself `signum`.
    """
    if _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)
