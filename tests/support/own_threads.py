"""Whether a test ends the threads that it starts: one that goes on may raise in the middle of the next test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_thread_left(within_s: float = 30.0) -> Iterator[None]:
    """Fail unless every thread of ours that the block starts has ended `within_s` after it.

    Libraries keep threads of their own; a pool's threads are theirs too.
    """
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before and _is_ours(thread):
            thread.join(within_s)
            assert not thread.is_alive(), f"the thread {thread.name} goes on after the test that started it"


def _is_ours(thread: threading.Thread) -> bool:
    # a thread forgets its target when it ends
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", None) or type(thread).__module__
    return module.startswith(("prolong.", "tests."))
