"""Tickets out, groups in: the side of the buffer that faces the actors.

`issue` is credit, the backward edge from buffer to actors. Validation tickets go first; then training tickets, one at a
time to the actor with the largest share of its capacity free: actors of any size fill evenly, a late one gets its share.
"""

from __future__ import annotations

import heapq

from ...common.messages import GroupAck, GroupResult, Tickets
from ...common.types import Group, Ticket, TicketKind
from ..journal.records import TicketRecord
from ..tickets.counters import Counters
from ..tickets.leases import Lease, Leases
from ..tickets.store import Outcome, Store
from .membership import Membership
from .peers import Peer
from .validation import Validation


class Dispatch:
    """Who works on what, and what becomes of it."""

    def __init__(self, store: Store, validation: Validation, membership: Membership, counters: Counters) -> None:
        self._store, self._validation, self._membership, self._counters = store, validation, membership, counters
        self.leases = Leases()
        self._rejoin_until_s: dict[str, float] = {}  # actors whose leases were restored -> until when they may come back
        self.next_ordinal = 0  # of training and validation tickets alike

    # --- out ----------------------------------------------------------------------------------------------------------

    def issue(self, actors: list[Peer], now: float, *, training: bool) -> list[tuple[Peer, Tickets]]:
        """Give every actor that holds weights as many tickets as it has room for and the contract admits."""
        given: dict[str, list[Ticket]] = {}
        versions: dict[str, int] = {}
        free: list[tuple[float, int, Peer]] = []  # heap: share of the capacity in flight, order of joining
        for rank, actor in enumerate(actors):
            version = self._membership.version_of(actor.name, self._store.generation)
            if version is not None:
                versions[actor.name] = version
                free.append((self._load(actor), rank, actor))
        heapq.heapify(free)
        while free:
            _, rank, actor = heapq.heappop(free)
            ticket = self._ticket_for(actor, versions[actor.name], training)
            if ticket is None:
                continue
            self.leases.grant(ticket, actor.name, now)
            given.setdefault(actor.name, []).append(ticket)
            heapq.heappush(free, (self._load(actor), rank, actor))
        return [(actor, Tickets(tickets=given[actor.name])) for actor in actors if actor.name in given]

    def _load(self, actor: Peer) -> float:
        return self.leases.rollouts(actor.name) / max(actor.hello.capacity, 1)

    def _has_room(self, actor: Peer, num_rollouts: int) -> bool:
        """Whether so many rollouts fit; an actor without work takes a ticket of any size."""
        in_flight = self.leases.rollouts(actor.name)
        return in_flight == 0 or in_flight + num_rollouts <= actor.hello.capacity

    def _ticket_for(self, actor: Peer, version: int, training: bool) -> Ticket | None:
        ordinal = self.next_ordinal
        sampling = self._validation.wanted(version)
        if sampling is not None:
            if not self._has_room(actor, sampling.n):
                return None
            ticket = self._validation.issue(ordinal, self._store.generation, version)
        elif training and not self._validation.blocks_training and self._store.admits(version):
            if not self._has_room(actor, self._store.sampling.n):
                return None
            ticket = self._store.issue(ordinal, version)
        else:
            return None
        self.next_ordinal += 1
        return ticket

    def held_by(self, actor: str) -> list[Ticket]:
        """What an actor works on, or will when it hears of it."""
        return [lease.ticket for lease in self.leases.held_by(actor)]

    # --- in -----------------------------------------------------------------------------------------------------------

    def result(self, actor: Peer, message: GroupResult, frame: bytes = b"") -> GroupAck:
        """Take a group, or refuse one that was not asked for. `frame`: the message as it came."""
        group = message.group
        reason = self._unwanted(actor, message)
        if reason:
            return GroupAck(ordinal=group.ordinal, accepted=False, reason=reason)
        lease = self.leases.find(group.ordinal)
        assert lease is not None
        if reason := _mismatch(group, lease.ticket, actor.name):
            self._counters.count("buffer/mismatched_groups")
            self._fail_lease(lease)  # its holder has nothing better
            return GroupAck(ordinal=group.ordinal, accepted=False, reason=reason)
        self.leases.end(group.ordinal)
        if group.kind is TicketKind.train:
            outcome, reason = self._store.result(group, lease.ticket, frame)
        else:
            reason = self._validation.result(group, lease.ticket.version, self._store.head)
            outcome = Outcome.failed if reason else Outcome.stored
        return GroupAck(ordinal=group.ordinal, accepted=True, reason=f"{outcome}: {reason}" if reason else "")

    def _unwanted(self, actor: Peer, message: GroupResult) -> str:
        """Why a group is refused, and counted; empty for one that was asked for."""
        group, lease = message.group, self.leases.find(message.group.ordinal)
        if group.generation != self._store.generation:
            self._counters.count("buffer/dead_generation")
            return f"generation {group.generation} is over, this is {self._store.generation}"
        if lease is None:
            self._counters.count("buffer/duplicates")
            return "its ticket is settled, or its lease was lost"
        if lease.actor != actor.name:
            self._counters.count("buffer/mismatched_groups")
            return f"ticket {group.ordinal} was given to {lease.actor}"
        return ""

    def returned(self, actor: Peer, ordinal: int) -> None:
        """An actor gives a ticket back."""
        lease = self.leases.find(ordinal)
        if lease is not None and lease.actor == actor.name:
            self._counters.count("buffer/returned")
            self._fail_lease(lease)

    # --- a restarted buffer --------------------------------------------------------------------------------------------

    def restore(self, tickets: list[TicketRecord], now: float, rejoin_grace_s: float) -> None:
        """Leases that a dead buffer had recorded: their clocks start again, and their actors have `rejoin_grace_s` to greet."""
        for record in tickets:
            self.leases.grant(record.ticket, record.actor, now)
            self._rejoin_until_s[record.actor] = now + rejoin_grace_s

    def reclaim_leases(self, actor: str, *, holds_weights: bool) -> bool:
        """Whether an actor is the one that holds restored leases; a fresh process of its name is not, and they are lost."""
        if self._rejoin_until_s.pop(actor, None) is None:
            return False
        if not holds_weights:
            self.fail_leases_of(actor)
        return holds_weights

    # --- lost ---------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Leases that ran out are lost, and those of actors that a dead buffer knew and that never came back."""
        for actor in [actor for actor, until_s in self._rejoin_until_s.items() if now > until_s]:
            del self._rejoin_until_s[actor]
            self.fail_leases_of(actor)
        for lease in self.leases.expired(now):
            self._counters.count("buffer/lost_leases")
            self._fail_lease(lease)

    def end_training_leases(self) -> None:
        """The run is at its end: training tickets are nobody's any more, and their groups will be refused."""
        for lease in self.leases.all():
            if lease.ticket.kind is TicketKind.train:
                self.leases.end(lease.ticket.ordinal)

    def fail_leases_of(self, actor: str) -> None:
        """An actor is gone, or not to be trusted: whatever it works on is lost."""
        for lease in self.leases.held_by(actor):
            self._counters.count("buffer/lost_leases")
            self._fail_lease(lease)

    def _fail_lease(self, lease: Lease) -> None:
        self.leases.end(lease.ticket.ordinal)
        if lease.ticket.kind is TicketKind.train:
            self._store.fail_ticket(lease.ticket.ordinal)
        else:
            self._validation.fail_ticket(lease.ticket.ordinal)


def _mismatch(group: Group, ticket: Ticket, actor: str) -> str:
    """What of a group is not as its ticket says; empty for one that is."""
    for name in ("prompt", "kind", "setting", "sampling"):
        asked, said = getattr(ticket, name), getattr(group, name)
        if asked != said:
            return f"ticket {group.ordinal} has {name} {asked!s:.200}, the group says {said!s:.200}"
    if group.actor != actor:
        return f"the group says that it is of actor {group.actor:.200}, {actor} sent it"
    return ""
