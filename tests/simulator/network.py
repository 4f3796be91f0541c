"""Connections as ZeroMQ keeps them: ordered and whole while they last; frames under way are lost when one breaks.

Harsher faults (a frame twice, out of order, never, with a flipped bit) show how much more the contract survives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .faults import Kind

if TYPE_CHECKING:
    from .client import Client
    from .world import World


class Lane:
    """One direction of a connection: first in, first out, some time later."""

    def __init__(self, world: World, deliver: Callable[[Any], None]) -> None:
        self.blocked_until_s = 0.0
        self.queue: deque[Any] = deque()
        self._world, self._deliver, self._last_s = world, deliver, 0.0

    def put(self, item: Any) -> None:
        self.queue.append(item)
        world = self._world
        self._last_s = max(self._last_s, world.now + world.soon(world.plan.latency_s), self.blocked_until_s)
        world.at(self._last_s - world.now, self._arrive)

    def _arrive(self) -> None:
        wait_s = self.blocked_until_s - self._world.now
        if wait_s > 0:
            self._world.at(wait_s, self._arrive)
        elif self.queue:
            self._deliver(self.queue.popleft())

    def disturb(self, kind: Kind) -> bool:
        """Do to frames under way what no TCP connection does. False when there are no frames that this can happen to."""
        if len(self.queue) < (2 if kind is Kind.reorder else 1):
            return False
        if kind is Kind.reorder:
            self.queue.rotate(1)  # the last one arrives first
        elif kind is Kind.duplicate:
            self.put(self.queue[0])
        else:
            frame = self.queue.popleft()
            if kind is Kind.corrupt and isinstance(frame, bytes):
                middle = len(frame) // 2
                self.queue.appendleft(frame[:middle] + bytes([frame[middle] ^ 4]) + frame[middle + 1 :])
        return True


class Link:
    """One connection between a client and the buffer process that it found."""

    def __init__(self, world: World, client: Client) -> None:
        buffer, identity = world.buffer, client.identity
        assert buffer is not None
        self.up = True
        self.to_buffer = Lane(world, lambda frame: buffer.hear(identity, frame))  # of frames
        self.to_client = Lane(world, lambda message: client.run(client.hear, message))  # of messages

    def block(self, until_s: float) -> None:
        """A partition, both ways."""
        for lane in (self.to_buffer, self.to_client):
            lane.blocked_until_s = max(lane.blocked_until_s, until_s)

    def close(self, *, lingers: bool = False) -> list[bytes]:
        """Break the connection; returns the frames that did not reach the buffer. With `lingers` they all still do."""
        self.up = False
        self.to_client.queue.clear()
        if lingers:
            return []
        lost = list(self.to_buffer.queue)
        self.to_buffer.queue.clear()
        return lost
