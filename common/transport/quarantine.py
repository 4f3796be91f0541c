"""Senders of malformed frames: `STRIKES` of them within `WINDOW_S`, and the sender is not listened to for `REST_S`.

A stray flipped bit costs a frame; a peer that speaks nonsense costs nobody else anything. To the core it falls silent, so its
tickets are issued again; when its time is over it is unknown, and greets like anybody. No socket, no clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

STRIKES = 16
WINDOW_S = 60.0
REST_S = 60.0
MAX_SENDERS = 1024  # remembered; a flood of fresh routing ids pushes the oldest out


class Quarantine:
    """By routing id of a socket."""

    def __init__(self) -> None:
        self._strikes: OrderedDict[bytes, deque[float]] = OrderedDict()  # times of malformed frames, the newest STRIKES
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def strike(self, sender: bytes, now: float) -> bool:
        """Note a malformed frame; True when its sender is in quarantine from now on."""
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
        """Whether this sender is not listened to."""
        if sender not in self._until:
            return False
        if now < self._until[sender]:
            return True
        del self._until[sender]
        return False

    def held(self, now: float) -> dict[bytes, float]:
        """Everybody who is not listened to, with the seconds that are left."""
        return {sender: until - now for sender, until in self._until.items() if now < until}


def _forget_oldest(senders: OrderedDict[bytes, Any]) -> None:
    while len(senders) > MAX_SENDERS:
        senders.popitem(last=False)
