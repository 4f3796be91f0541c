"""Ends a process when the process that started it ends, by SIGKILL too.

vLLM leaves its engine process behind when the actor is killed: it would hold a core and its memory until someone finds it.
"""

from __future__ import annotations

import os
import select
import threading

_VARIABLE = "PROLONG_ACTOR_PID"


def announce_parent() -> None:
    """In the actor, before it starts processes: their parent is this process."""
    os.environ[_VARIABLE] = str(os.getpid())


def end_with_parent() -> None:
    """In a process that the actor started: exit at once when the actor ends, or if it has ended already."""
    pid = int(os.environ.get(_VARIABLE, os.getpid()))
    if pid == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_exit_after, args=(descriptor,), name="parent-watch", daemon=True).start()


def _exit_after(descriptor: int) -> None:
    # a pidfd is readable once its process has ended
    select.select([descriptor], [], [])
    os._exit(1)
