"""A set of tickets of which the oldest are wanted, however many there are: one that comes or goes costs O(log n)."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator


class Ordinals:
    """Ordinals in order of arrival, and the smallest of them.

    Example:
        stored = Ordinals()
        for ordinal in (7, 3, 5):
            stored.add(ordinal)
        list(stored)        # [7, 3, 5]
        stored.first(2)     # [3, 5]
    """

    def __init__(self) -> None:
        self._arrived: dict[int, None] = {}
        # the smallest, ascending, as many as were asked for
        self._front: list[int] = []
        # all others
        self._heap: list[int] = []
        # ordinals in one of the two that have been discarded
        self._discarded: set[int] = set()

    def __len__(self) -> int:
        return len(self._arrived)

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._arrived

    def __iter__(self) -> Iterator[int]:
        return iter(self._arrived)

    def add(self, ordinal: int) -> None:
        """An ordinal comes; it may have been here before."""
        if ordinal in self._arrived:
            return
        self._arrived[ordinal] = None
        if ordinal in self._discarded:
            self._discarded.remove(ordinal)
        elif self._front and ordinal < self._front[-1]:
            insort(self._front, ordinal)
        else:
            heapq.heappush(self._heap, ordinal)

    def discard(self, ordinal: int) -> None:
        """An ordinal goes. Raises KeyError when it is not here."""
        del self._arrived[ordinal]
        self._discarded.add(ordinal)
        if len(self._discarded) > len(self._arrived):
            self._front, self._heap = [], list(self._arrived)
            heapq.heapify(self._heap)
            self._discarded.clear()

    def first(self, count: int) -> list[int]:
        """The `count` smallest, ascending."""
        discarded, front, heap = self._discarded, self._front, self._heap
        if not discarded.isdisjoint(front):
            gone = discarded.intersection(front)
            self._front = front = [ordinal for ordinal in front if ordinal not in gone]
            discarded -= gone
        while len(front) < count and heap:
            ordinal = heapq.heappop(heap)
            if ordinal in discarded:
                discarded.remove(ordinal)
            else:
                front.append(ordinal)
        return front[:count]
