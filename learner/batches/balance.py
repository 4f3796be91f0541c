"""Sharing the work of one update between ranks that wait for one another in every micro-batch.

The time of an update is the sum over steps, the micro-batches that all ranks work on at once, of the costliest rank's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def best_fit(items: Sequence[T], size: Callable[[T], int], capacity: int) -> list[list[T]]:
    """Fill bins of at most `capacity`: longest items first, each into the fullest bin with room, oversized items alone."""
    bins: list[tuple[int, list[T]]] = []
    for item in sorted(items, key=size, reverse=True):
        need = size(item)
        room = [i for i, (filled, _) in enumerate(bins) if filled + need <= capacity]
        if room:
            at = max(room, key=lambda i: bins[i][0])
            bins[at] = (bins[at][0] + need, [*bins[at][1], item])
        else:
            bins.append((need, [item]))
    return [content for _, content in bins]


def even_steps(
    items: Sequence[T], *, size: Callable[[T], int], cost: Callable[[T], float], capacity: int, ranks: int
) -> list[list[list[T]]]:
    """For each step, the items of every rank: in no more steps than `best_fit` needs, with little waiting.

    No rank has more than `capacity` in a step, but for an oversized item alone. A rank may have nothing in a step.
    """
    packed = best_fit(items, size, capacity)
    steps = -(-len(packed) // ranks)
    bins = _least_waiting(items, size, cost, capacity, (steps, ranks)) or packed
    bins += [[] for _ in range(steps * ranks - len(bins))]
    # of given bins, the least waiting: those of similar cost at the same time
    bins.sort(key=lambda content: sum(map(cost, content)), reverse=True)
    return [bins[i : i + ranks] for i in range(0, len(bins), ranks) if bins[i]]


def _least_waiting(
    items: Sequence[T], size: Callable[[T], int], cost: Callable[[T], float], capacity: int, shape: tuple[int, int]
) -> list[list[T]] | None:
    """Fill steps x ranks bins: the costliest item first, each where it adds least to the update's time.

    Among such bins the one with the least cost takes it. Returns None if an item has no room.
    """
    loads, filled = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    bins: list[list[T]] = [[] for _ in range(loads.size)]
    for item in sorted(items, key=cost, reverse=True):
        added = np.maximum(loads + cost(item) - loads.max(axis=1, keepdims=True), 0.0)
        added[(filled > 0) & (filled + size(item) > capacity)] = np.inf
        least = added.min()
        if least == np.inf:
            return None
        at = int(np.where(added <= least, loads, np.inf).argmin())
        loads.flat[at] += cost(item)
        filled.flat[at] += size(item)
        bins[at].append(item)
    return bins
