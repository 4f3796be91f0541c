"""Which actor works on which ticket, and until when. Training and validation tickets alike."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from ...common.types import Ticket, TicketKind
from ..journal.records import TicketRecord


@dataclass(slots=True, frozen=True)
class Lease:
    """One ticket that one actor works on."""

    ticket: Ticket
    actor: str
    expires_s: float


class Leases:
    """Leases by ordinal, by actor and by expiry."""

    def __init__(self) -> None:
        self._by_ordinal: dict[int, Lease] = {}
        self._by_actor: dict[str, dict[int, None]] = {}
        self._rollouts: dict[str, int] = {}
        # heap of (expiry, ordinal); leases that ended meanwhile are skipped
        self._expiry: list[tuple[float, int]] = []
        self._touched: dict[int, None] = {}
        # actors whose work in flight changed since `take_changed_actors`
        self._changed_actors: dict[str, None] = {}
        # actors whose leases were restored, and the time until which they may greet
        self._rejoining: dict[str, None] = {}
        self._rejoin_until_s = 0.0

    def grant(self, ticket: Ticket, actor: str, now: float, until_s: float | None = None) -> None:
        """Lease `ticket` to `actor` for its `lease_s`, or until `until_s` if it was leased to others before."""
        lease = Lease(ticket=ticket, actor=actor, expires_s=now + ticket.lease_s if until_s is None else until_s)
        self._by_ordinal[ticket.ordinal] = lease
        self._by_actor.setdefault(actor, {})[ticket.ordinal] = None
        self._rollouts[actor] = self._rollouts.get(actor, 0) + ticket.sampling.n
        self._changed_actors[actor] = None
        # most leases end long before they expire
        if len(self._expiry) > 2 * len(self._by_ordinal) + 64:
            self._expiry = [(other.expires_s, ordinal) for ordinal, other in self._by_ordinal.items()]
            heapq.heapify(self._expiry)
        else:
            heapq.heappush(self._expiry, (lease.expires_s, ticket.ordinal))
        self._touched[ticket.ordinal] = None

    def find(self, ordinal: int) -> Lease | None:
        """The lease of a ticket, if it has one."""
        return self._by_ordinal.get(ordinal)

    def end(self, ordinal: int) -> Lease:
        """End the lease of a ticket. Raises KeyError when it has none."""
        lease = self._by_ordinal.pop(ordinal)
        self._touched[ordinal] = None
        del self._by_actor[lease.actor][ordinal]
        self._rollouts[lease.actor] -= lease.ticket.sampling.n
        self._changed_actors[lease.actor] = None
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
        # a ticket that was handed over has two entries of the same expiry
        lost: dict[int, Lease] = {}
        while self._expiry and self._expiry[0][0] <= now:
            expires_s, ordinal = heapq.heappop(self._expiry)
            lease = self._by_ordinal.get(ordinal)
            if lease is not None and lease.expires_s == expires_s:
                lost[ordinal] = lease
        return list(lost.values())

    def end_training_leases(self) -> None:
        """The run is at its end: groups of training tickets are refused from now on."""
        for lease in self.all():
            if lease.ticket.kind is TicketKind.train:
                self.end(lease.ticket.ordinal)

    def clear(self) -> None:
        """End every lease: a generation begins."""
        self._touched |= dict.fromkeys(self._by_ordinal)
        self._changed_actors |= dict.fromkeys(self._by_actor)
        self._by_ordinal.clear()
        self._by_actor.clear()
        self._rollouts.clear()
        self._expiry.clear()

    def take_changes(self) -> list[int]:
        """Ordinals of tickets that were granted or ended since the last call, for the journal."""
        touched = list(self._touched)
        self._touched.clear()
        return touched

    def take_changed_actors(self) -> dict[str, None]:
        """The actors whose work in flight changed since the last call."""
        changed, self._changed_actors = self._changed_actors, {}
        return changed

    # --- a buffer restarts ------------------------------------------------------------------------

    def restore(self, records: Iterable[TicketRecord], now: float, rejoin_grace_s: float) -> None:
        """Grant recorded leases again: their clocks start at `now`, and their actors may greet for `rejoin_grace_s`."""
        for record in records:
            self.grant(record.ticket, record.actor, now)
            self._rejoining[record.actor] = None
        self._rejoin_until_s = now + rejoin_grace_s
        self._touched.clear()

    def rejoin(self, actor: str) -> bool:
        """An actor greets: whether restored leases in its name still wait for it."""
        if actor not in self._rejoining:
            return False
        del self._rejoining[actor]
        return True

    def overdue_actors(self, now: float) -> list[str]:
        """Actors with restored leases whose time to greet is over. Each is named once."""
        if not self._rejoining or now <= self._rejoin_until_s:
            return []
        overdue, self._rejoining = self._rejoining, {}
        return list(overdue)
