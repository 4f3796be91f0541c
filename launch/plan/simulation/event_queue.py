"""Virtual time: events in the order of their times, and of their making where those are equal."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

# what happens, and what it is told
Action: TypeAlias = Callable[[int], None]


class EventQueue:
    """The clock of a simulation. It starts at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._num_added = 0
        self._heap: list[tuple[float, int, Action, int]] = []

    def at(self, time_s: float, action: Action, argument: int = 0) -> None:
        """Let `action(argument)` happen at `time_s`, now at the earliest."""
        self._num_added += 1
        heapq.heappush(self._heap, (max(time_s, self.now), self._num_added, action, argument))

    def after(self, delay_s: float, action: Action, argument: int = 0) -> None:
        """The same, so many seconds from now."""
        self.at(self.now + delay_s, action, argument)

    def step(self) -> bool:
        """Let the next event happen. False when there is none."""
        if not self._heap:
            return False
        self.now, _, action, argument = heapq.heappop(self._heap)
        self.num_events += 1
        action(argument)
        return True
