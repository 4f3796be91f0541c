"""An engine process that outlives its actor would hold a core and its memory for ever: vLLM leaves it behind on SIGKILL."""

from __future__ import annotations

import os
import select
import threading

_VARIABLE = "PROLONG_ACTOR_PID"


def mark_actor() -> None:
    """In the actor, before it starts processes: they belong to this one."""
    os.environ[_VARIABLE] = str(os.getpid())


def end_with_actor() -> None:
    """In a process that the actor started: leave at once when the actor is gone, or already was."""
    pid = int(os.environ.get(_VARIABLE, os.getpid()))
    if pid == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(target=_wait, args=(descriptor,), name="orphan", daemon=True).start()


def _wait(descriptor: int) -> None:
    select.select([descriptor], [], [])  # readable when the process ended
    os._exit(1)
