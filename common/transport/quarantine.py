"""Quarantine of senders of malformed frames: after `STRIKES` such frames within `WINDOW_S` a sender is ignored for `REST_S`.

A stray flipped bit costs one frame, and a peer that sends garbage costs the other peers nothing. A sender in quarantine looks
silent, so its tickets are issued again; afterwards it is unknown, and greets like any new client. No socket, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TypeVar

STRIKES = 16
WINDOW_S = 60.0
REST_S = 60.0
MAX_SENDERS = 1024  # remembered; a flood of new routing ids pushes the oldest out

T = TypeVar("T")


class Quarantine:
    """Strikes and quarantines, by routing id of a socket."""

    def __init__(self) -> None:
        # times of malformed frames, the newest STRIKES
        self._strikes: OrderedDict[bytes, deque[float]] = OrderedDict()
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def strike(self, sender: bytes, now: float) -> bool:
        """Note a malformed frame; True when the quarantine of its sender begins."""
        times = self._strikes.setdefault(sender, deque(maxlen=STRIKES))
        self._strikes.move_to_end(sender)
        times.append(now)
        if len(times) < STRIKES or now - times[0] > WINDOW_S:
            _forget_oldest(self._strikes)
            return False
        del self._strikes[sender]
        self._until[sender] = now + REST_S
        _forget_oldest(self._until)
        return True

    def holds(self, sender: bytes, now: float) -> bool:
        """Whether frames of this sender are to be ignored."""
        if sender not in self._until:
            return False
        if now < self._until[sender]:
            return True
        del self._until[sender]
        return False

    def held(self, now: float) -> dict[bytes, float]:
        """The senders in quarantine, with the seconds that are left."""
        return {sender: until - now for sender, until in self._until.items() if now < until}


def _forget_oldest(senders: OrderedDict[bytes, T]) -> None:
    while len(senders) > MAX_SENDERS:
        senders.popitem(last=False)
