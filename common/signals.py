"""SIGTERM and SIGINT as a request to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


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
