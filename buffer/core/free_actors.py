"""The actors that may take a ticket now, ranked: a message costs work for the actors that it changed, never for all of them.

Whoever changes an actor's room, weights or rank says `touch`. Before tickets are given, `refresh` ranks the touched ones anew;
then `best` names the first of a version that has room. There are as many heaps as versions that actors hold: a few.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

ANY = 1 << 60  # room of an actor without work: it takes a ticket of any size


@dataclass(slots=True, frozen=True)
class Place:
    """An actor that may take tickets."""

    version: int  # that it holds
    rank: float  # the lowest comes first
    room: int  # rollouts that it has room for


class FreeActors:
    """Actors by version, each version in order of rank, and of joining among equals.

    Example:
        free = FreeActors()
        free.touch("actor-0")
        free.refresh(lambda name: Place(version=3, rank=0.5, room=8))
        free.best([3], 4)       # "actor-0"
    """

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        # version -> number of places
        self._held: Counter[int] = Counter()
        # when an actor was first seen: of equal rank, the first comes first
        self._joined: dict[str, int] = {}
        self._num_joined = 0
        # version -> heap of (rank, joined, name); an entry that is not the actor's present place is skipped
        self._heaps: dict[int, list[tuple[float, int, str]]] = {}
        # actors whose entry was taken from its heap because they had too little room
        self._small: dict[str, None] = {}
        # the most that any of them was too small for
        self._too_much = 0
        self._touched: dict[str, None] = {}

    def touch(self, *names: str) -> None:
        """Something about these actors may have changed."""
        self._touched.update(dict.fromkeys(names))

    def forget(self, name: str) -> None:
        """An actor is gone; one of its name may come before the next `refresh`."""
        self._enter(name, None)
        self._joined.pop(name, None)

    def refresh(self, place_of: Callable[[str], Place | None]) -> None:
        """Rank the touched actors. `place_of`: None for one that may take no ticket."""
        touched, self._touched = self._touched, {}
        for name in touched:
            place = place_of(name)
            if place != self._places.get(name):
                self._enter(name, place)

    def _enter(self, name: str, place: Place | None) -> None:
        self._small.pop(name, None)
        former = self._places.pop(name, None)
        if former is not None:
            self._leave(former.version)
        if place is None:
            return
        if name not in self._joined:
            self._joined[name] = self._num_joined
            self._num_joined += 1
        self._places[name] = place
        self._held[place.version] += 1
        self._push(name, place)

    def _leave(self, version: int) -> None:
        self._held[version] -= 1
        if self._held[version] == 0:
            del self._held[version]
            self._heaps.pop(version, None)

    def _push(self, name: str, place: Place) -> None:
        heap = self._heaps.setdefault(place.version, [])
        if len(heap) > 4 * len(self._places) + 64:
            heap[:] = [entry for entry in heap if self._is_present(place.version, entry)]
            heapq.heapify(heap)
        heapq.heappush(heap, (place.rank, self._joined[name], name))

    def _is_present(self, version: int, entry: tuple[float, int, str]) -> bool:
        rank, joined, name = entry
        place = self._places.get(name)
        if place is None or name in self._small:
            return False
        return (place.version, place.rank, self._joined.get(name)) == (version, rank, joined)

    def versions(self) -> list[int]:
        """The versions that actors with room hold, the newest first."""
        return sorted(self._held, reverse=True)

    def best(self, versions: Iterable[int], num_rollouts: int) -> str | None:
        """The first actor of any of these versions that has room for so many rollouts."""
        if num_rollouts < self._too_much:
            self._ask_small_again()
        tops = [top for version in versions if (top := self._top(version, num_rollouts)) is not None]
        return min(tops)[2] if tops else None

    def _ask_small_again(self) -> None:
        """Less room is enough now: those who had too little may do."""
        self._too_much = 0
        small, self._small = self._small, {}
        for name in small:
            self._push(name, self._places[name])

    def _top(self, version: int, num_rollouts: int) -> tuple[float, int, str] | None:
        heap = self._heaps.get(version, [])
        while heap:
            entry = heap[0]
            if not self._is_present(version, entry):
                heapq.heappop(heap)
            elif self._places[entry[2]].room < num_rollouts:
                heapq.heappop(heap)
                self._small[entry[2]] = None
                self._too_much = max(self._too_much, num_rollouts)
            else:
                return entry
        return None

    def place(self, name: str) -> Place | None:
        """The place of an actor, as it was ranked last."""
        return self._places.get(name)
