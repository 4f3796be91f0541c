"""Threads that start late: the kernel has them, and their first line of Python runs when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest


def interrupt_start(monkeypatch: pytest.MonkeyPatch, begins: threading.Event, interrupt: Callable[[], None]) -> None:
    """`interrupt` the next `Thread.start` when it has made the thread, which runs once `begins` is set."""
    # the second since Python 3.13
    (name,) = {"_start_new_thread", "_start_joinable_thread"} & vars(threading).keys()
    start = vars(threading)[name]

    def start_and_be_interrupted(bootstrap: Callable[..., None], *arguments: object, **named: object) -> object:
        made = start(lambda *given: begins.wait(20) and bootstrap(*given), *arguments, **named)
        monkeypatch.undo()
        interrupt()
        return made

    monkeypatch.setattr(threading, name, start_and_be_interrupted)
