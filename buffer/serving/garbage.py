"""Python's garbage collector in the buffer's process: it searches rarely, and not again through what survived a search.

A search looks at containers that live, and a buffer with 10^6 tickets has tens of millions: a full one would stop it for
seconds. Values here are freed by their counts of references. What the collector is for, cycles, are a few, and young when they
die.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

OLDEST = 2
# new objects between two searches for cyclic garbage, and searches of each kind until one of the next
SEARCH_RARELY = (100_000, 50, 100)


@contextmanager
def rare_searches() -> Iterator[None]:
    """Meanwhile Python looks for cyclic garbage rarely.

    A group is a hundred objects that live until it is trained: by default a group would cost more time in searches through
    those that are stored than in everything else.
    """
    before = gc.get_threshold()
    gc.set_threshold(*SEARCH_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def survivors_set_aside() -> Iterator[None]:
    """Meanwhile every full search leaves its survivors out of the next ones. Only for a process that does nothing else."""
    gc.callbacks.append(_set_aside)
    try:
        yield
    finally:
        gc.callbacks.remove(_set_aside)
        gc.unfreeze()


def _set_aside(phase: str, about: Mapping[str, int]) -> None:
    if phase == "stop" and about["generation"] == OLDEST:
        gc.freeze()
