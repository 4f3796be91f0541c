"""How many rollouts an actor should have in flight now, found from the signals of its engine.

heartbeats --Heartbeat.room--> buffer, which gives tickets up to it (`Peer.room`)

`actor.capacity` is the most that the user allows, and where the search begins. Too many rollouts in flight keep tickets from
other actors while they wait in this engine, and push each other out of its cache of keys and values, to be computed twice. Too
few leave the engine idle. So the cap falls by what the engine has no use for, and grows by one group at a time (additive
increase, multiplicative decrease).

A queue counts where it stands: new weights make the engine compute its cache anew, and for a moment everything waits. The least
queue of several reports tells the two apart (Nichols and Jacobson, "Controlling queue delay", 2012).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from .engines.load import EngineLoad

# share of the running rollouts by which the cap falls after too many lost their place in the cache
CUT = 0.125
# places lost for each rollout that ended: more are too many. A few are worth it, to use the last percents of the cache
LOST = 0.1
# share of the cache above which no group is added: the rollouts under way still grow
FULL = 0.9
# groups that may wait in the engine. A longer queue is cut to one group, so that the engine never runs dry
QUEUED = 2
# groups that wait on the mean: with fewer there is room for another one
SPARE = 0.25
# reports in a row that must show a queue
STANDING = 3
# rollouts that must end between two steps up, as a share of those that run: it takes that long until a step shows
TURNOVER = 0.5


class InFlightCap:
    """The cap of one actor. It is read with each heartbeat."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: the most, `actor.capacity`."""
        self.rollouts = self._capacity = capacity
        self._group = 1
        # since the cap changed, or was too high last
        self._since = EngineLoad()
        self._ended_before = 0
        self._held: list[int] = []
        # of the last reports: the load at their ends, and rollouts that waited in a mean step
        self._seen = EngineLoad()
        self._queues: deque[float] = deque(maxlen=STANDING)

    def note_groups(self, sizes: Iterable[int]) -> None:
        """Tickets of so many rollouts came: the cap moves by groups of the largest size, and never falls below one."""
        self._group = max(sizes, default=self._group)

    def report(self, load: EngineLoad, held: int, ended: int) -> int:
        """The cap now, in rollouts.

        load: of the engine, cumulative. held: rollouts of all tickets that this actor works on, ended or not. ended: rollouts
        that ended since it started.
        """
        if load.steps == self._seen.steps:
            return self.rollouts
        self._queues.append((load.waiting - self._seen.waiting) / (load.steps - self._seen.steps))
        self._seen = replace(load)
        self._held.append(held)
        if held > self.rollouts:
            # the last cut has not shown yet
            self._begin_anew(load, ended)
            return self.rollouts
        cap = self._wanted(load, held, ended)
        if cap is not None:
            # part of a group is no ticket
            self.rollouts = min(max(1, round(cap / self._group)) * self._group, self._capacity)
            self._begin_anew(load, ended)
        return self.rollouts

    def _wanted(self, load: EngineLoad, held: int, ended: int) -> float | None:
        """Another cap, if the signals since the last change ask for one."""
        since, group = self._since, self._group
        steps, ended = load.steps - since.steps, ended - self._ended_before
        running, waiting = (load.running - since.running) / steps, (load.waiting - since.waiting) / steps
        standing = min(self._queues) if len(self._queues) == STANDING else 0.0
        lost = load.preemptions - since.preemptions
        mean_held = sum(self._held) / len(self._held)
        if lost > LOST * max(ended, running):
            return mean_held - waiting - CUT * running
        if standing > QUEUED * group:
            return held - standing + group
        if ended < TURNOVER * running:
            return None
        is_binding = mean_held + group > self.rollouts
        has_room = waiting < SPARE * group and lost == 0 and (load.kv_use - since.kv_use) / steps < FULL
        return self.rollouts + group if is_binding and has_room else self.rollouts

    def _begin_anew(self, load: EngineLoad, ended: int) -> None:
        self._since, self._ended_before = replace(load), ended
        self._held.clear()
        self._queues.clear()
