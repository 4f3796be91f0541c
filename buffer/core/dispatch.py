"""Tickets out, groups in: the actors' side of the run.

`issue` is credit, the backward edge from the buffer to the actors. Validation tickets go first. Training tickets then go out
one at a time, each to the actor with the largest share of its capacity free: actors of any size fill evenly, and one that joins
late gets its share.
"""

from __future__ import annotations

import heapq

from ...common.messages import GroupAck, GroupResult, Tickets
from ...common.types import Group, Ticket, TicketKind
from ..tickets.leases import Lease
from ..tickets.store import Outcome
from .peers import Peer
from .run_state import RunState


class Dispatch:
    """Gives tickets to actors, and takes groups from them."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    # --- out --------------------------------------------------------------------------------------

    def issue(self, actors: list[Peer], now: float, *, training: bool) -> list[tuple[Peer, Tickets]]:
        """Give every actor that holds weights as many tickets as it has room for and the contract admits."""
        given: dict[str, list[Ticket]] = {}
        versions: dict[str, int] = {}
        # heap of (share of the capacity in flight, order of joining, actor)
        free: list[tuple[float, int, Peer]] = []
        for rank, actor in enumerate(actors):
            version = self._run.membership.version_of(actor.name, self._run.store.generation)
            if version is not None:
                versions[actor.name] = version
                free.append((self._load(actor), rank, actor))
        heapq.heapify(free)
        while free:
            _, rank, actor = heapq.heappop(free)
            ticket = self._ticket_for(actor, versions[actor.name], training)
            if ticket is None:
                continue
            self._run.leases.grant(ticket, actor.name, now)
            given.setdefault(actor.name, []).append(ticket)
            heapq.heappush(free, (self._load(actor), rank, actor))
        return [(actor, Tickets(tickets=given[actor.name])) for actor in actors if actor.name in given]

    def _load(self, actor: Peer) -> float:
        return self._run.leases.rollouts(actor.name) / max(actor.hello.capacity, 1)

    def _has_room(self, actor: Peer, num_rollouts: int) -> bool:
        """Whether so many rollouts fit; an actor without work takes a ticket of any size."""
        in_flight = self._run.leases.rollouts(actor.name)
        return in_flight == 0 or in_flight + num_rollouts <= actor.hello.capacity

    def _ticket_for(self, actor: Peer, version: int, training: bool) -> Ticket | None:
        """The actor's next ticket, if one is due and it has room for it."""
        run = self._run
        sampling = run.validation.wanted(version)
        if sampling is not None:
            if not self._has_room(actor, sampling.n):
                return None
            return run.validation.issue(run.take_ordinal(), run.store.generation, version)
        if not training or run.validation.blocks_training or not run.store.admits(version):
            return None
        if not self._has_room(actor, run.store.sampling.n):
            return None
        return run.store.issue(run.take_ordinal(), version)

    def held_by(self, actor: str) -> list[Ticket]:
        """The tickets that an actor works on, in order of issue."""
        return [lease.ticket for lease in self._run.leases.held_by(actor)]

    # --- in ---------------------------------------------------------------------------------------

    def take_group(self, actor: Peer, message: GroupResult, frame: bytes = b"") -> GroupAck:
        """Take a group, or refuse one that was not asked for. `frame`: the message as it came."""
        group = message.group
        reason = self._refusal(actor, group)
        if reason:
            return GroupAck(ordinal=group.ordinal, accepted=False, reason=reason)
        lease = self._run.leases.find(group.ordinal)
        assert lease is not None
        reason = _mismatch(group, lease.ticket, actor.name)
        if reason:
            self._run.counters.count("buffer/mismatched_groups")
            # the actor has no other group for this ticket
            self._fail_lease(lease)
            return GroupAck(ordinal=group.ordinal, accepted=False, reason=reason)
        self._run.leases.end(group.ordinal)
        if group.kind is TicketKind.train:
            outcome, reason = self._run.store.take_group(group, lease.ticket, frame)
        else:
            reason = self._run.validation.take_group(group, lease.ticket.version, self._run.store.head)
            outcome = Outcome.failed if reason else Outcome.stored
        return GroupAck(ordinal=group.ordinal, accepted=True, reason=f"{outcome}: {reason}" if reason else "")

    def _refusal(self, actor: Peer, group: Group) -> str:
        """The reason why a group is refused, counted; empty for one that was asked for."""
        run, lease = self._run, self._run.leases.find(group.ordinal)
        if group.generation != run.store.generation:
            run.counters.count("buffer/dead_generation")
            return f"generation {group.generation} is over, this is {run.store.generation}"
        if lease is None:
            run.counters.count("buffer/duplicates")
            return "its ticket is settled, or its lease was lost"
        if lease.actor != actor.name:
            run.counters.count("buffer/mismatched_groups")
            return f"ticket {group.ordinal} was given to {lease.actor}"
        return ""

    def take_back(self, actor: Peer, ordinal: int) -> None:
        """An actor returns a ticket without a group."""
        lease = self._run.leases.find(ordinal)
        if lease is not None and lease.actor == actor.name:
            self._run.counters.count("buffer/returned")
            self._fail_lease(lease)

    # --- lost -------------------------------------------------------------------------------------

    def reclaim_leases(self, actor: str, *, holds_weights: bool) -> list[Ticket]:
        """An actor greets a buffer that restarted: the tickets that were recorded in its name, if it works on them.

        A process without weights is another one of the same name: it knows none of these tickets, and they are lost.
        """
        if not self._run.leases.rejoin(actor):
            return []
        if not holds_weights:
            self.fail_leases_of(actor)
        return self.held_by(actor)

    def expire(self, now: float) -> None:
        """Fail leases that ran out, and those of actors that did not greet a restarted buffer in time."""
        for actor in self._run.leases.overdue_actors(now):
            self.fail_leases_of(actor)
        for lease in self._run.leases.expired(now):
            self._run.counters.count("buffer/lost_leases")
            self._fail_lease(lease)

    def fail_leases_of(self, actor: str) -> None:
        """An actor is gone, or has wrong weights: fail every ticket that it works on."""
        for lease in self._run.leases.held_by(actor):
            self._run.counters.count("buffer/lost_leases")
            self._fail_lease(lease)

    def _fail_lease(self, lease: Lease) -> None:
        self._run.leases.end(lease.ticket.ordinal)
        if lease.ticket.kind is TicketKind.train:
            self._run.store.fail_ticket(lease.ticket.ordinal)
        else:
            self._run.validation.fail_ticket(lease.ticket.ordinal)


def _mismatch(group: Group, ticket: Ticket, actor: str) -> str:
    """The first difference between a group and its ticket, as a sentence; empty when there is none."""
    fields = (
        ("prompt", ticket.prompt, group.prompt),
        ("kind", ticket.kind, group.kind),
        ("setting", ticket.setting, group.setting),
        ("sampling", ticket.sampling, group.sampling),
    )
    for name, asked, said in fields:
        if asked != said:
            return f"ticket {group.ordinal} has {name} {asked!s:.200}, the group says {said!s:.200}"
    if group.actor != actor:
        return f"the group says that it is of actor {group.actor:.200}, {actor} sent it"
    return ""
