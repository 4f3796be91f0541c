"""Python's garbage collector in the buffer's process: what survived a collection is not looked at by the next.

A full collection looks at every container, and a buffer with 10^6 tickets has tens of millions: each would stop it for seconds.
Values here are freed by their counts of references. What the collector is for, cycles, are a few, and young when they die.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

OLDEST = 2


@contextmanager
def survivors_set_aside() -> Iterator[None]:
    """Meanwhile every full collection leaves its survivors out of the next ones. Only for a process that does nothing else."""
    gc.callbacks.append(_set_aside)
    try:
        yield
    finally:
        gc.callbacks.remove(_set_aside)
        gc.unfreeze()


def _set_aside(phase: str, about: Mapping[str, int]) -> None:
    if phase == "stop" and about["generation"] == OLDEST:
        gc.freeze()
