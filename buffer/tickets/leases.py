"""Which actor works on which ticket, and until when. Training and validation tickets alike."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from ...common.types import Ticket


@dataclass(slots=True, frozen=True)
class Lease:
    """One ticket in the hands of one actor."""

    ticket: Ticket
    actor: str
    expires_s: float


class Leases:
    """Leases by ordinal, by actor and by expiry."""

    def __init__(self) -> None:
        self._by_ordinal: dict[int, Lease] = {}
        self._by_actor: dict[str, dict[int, None]] = {}
        self._rollouts: dict[str, int] = {}
        self._expiry: list[tuple[float, int]] = []  # heap; leases that ended meanwhile are skipped
        self._touched: dict[int, None] = {}

    def grant(self, ticket: Ticket, actor: str, now: float) -> None:
        """`actor` works on `ticket` for at most its lease_s."""
        lease = Lease(ticket=ticket, actor=actor, expires_s=now + ticket.lease_s)
        self._by_ordinal[ticket.ordinal] = lease
        self._by_actor.setdefault(actor, {})[ticket.ordinal] = None
        self._rollouts[actor] = self._rollouts.get(actor, 0) + ticket.sampling.n
        heapq.heappush(self._expiry, (lease.expires_s, ticket.ordinal))
        self._touched[ticket.ordinal] = None

    def find(self, ordinal: int) -> Lease | None:
        """The lease of a ticket, if it has one."""
        return self._by_ordinal.get(ordinal)

    def end(self, ordinal: int) -> Lease:
        """The ticket is in nobody's hands any more. Raises KeyError when it was in nobody's."""
        lease = self._by_ordinal.pop(ordinal)
        self._touched[ordinal] = None
        del self._by_actor[lease.actor][ordinal]
        self._rollouts[lease.actor] -= lease.ticket.sampling.n
        if not self._by_actor[lease.actor]:
            del self._by_actor[lease.actor], self._rollouts[lease.actor]
        return lease

    def rollouts(self, actor: str) -> int:
        """Rollouts that the actor has in flight."""
        return self._rollouts.get(actor, 0)

    def all(self) -> list[Lease]:
        """Every lease, in order of grant."""
        return list(self._by_ordinal.values())

    def held_by(self, actor: str) -> list[Lease]:
        """The actor's leases, in order of grant."""
        return [self._by_ordinal[ordinal] for ordinal in self._by_actor.get(actor, ())]

    def expired(self, now: float) -> list[Lease]:
        """Leases that ran out by `now`, earliest first; the caller ends them."""
        lost: list[Lease] = []
        while self._expiry and self._expiry[0][0] <= now:
            expires_s, ordinal = heapq.heappop(self._expiry)
            lease = self._by_ordinal.get(ordinal)
            if lease is not None and lease.expires_s == expires_s:
                lost.append(lease)
        return lost

    def clear(self) -> None:
        """Forget everything: a new timeline."""
        self._touched |= dict.fromkeys(self._by_ordinal)
        self._by_ordinal.clear()
        self._by_actor.clear()
        self._rollouts.clear()
        self._expiry.clear()

    def take_changes(self) -> list[int]:
        """Ordinals of tickets that were granted or ended since the last call, for the journal."""
        touched = list(self._touched)
        self._touched.clear()
        return touched
