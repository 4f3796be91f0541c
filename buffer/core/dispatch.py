"""Tickets out, groups in: the actors' side of the run.

`issue` is credit, the backward edge from the buffer to the actors. Tickets that were handed over go first, to actors that may
go on with them; then validation tickets; then training tickets, one at a time. `placement.py` says who gets which.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...common.config.sections import DispatchRule
from ...common.messages import GroupAck, GroupResult, TicketHandedOver, Tickets
from ...common.transport.wire import encode
from ...common.types import Group, Ticket, TicketKind
from ..tickets.group_checks import Defect, actors_of, names_defect, sampled_since
from ..tickets.handovers import Waiting
from ..tickets.leases import Lease
from ..tickets.store import Outcome
from .peers import Peer, Peers
from .placement import Placement
from .run_state import RunState

# of an acknowledgement
HANDED_OVER = "handed over: another actor will go on"


class Dispatch:
    """Gives tickets to actors, and takes groups from them."""

    def __init__(self, run: RunState, peers: Peers, rule: DispatchRule, silence_s: float, max_bytes: int) -> None:
        """`silence_s`: how long a ticket that the next batch must hold waits for newer weights of an actor that has room.

        `max_bytes`: of a message.
        """
        self._run, self._peers, self._silence_s, self._max_bytes = run, peers, silence_s, max_bytes
        self._placement = Placement(run, peers, rule)

    # --- out --------------------------------------------------------------------------------------

    def touch(self, actor: str) -> None:
        """An actor said something: its room, its weights or its speed may have changed."""
        self._placement.touch(actor)

    def forget(self, actor: str) -> None:
        """An actor is gone."""
        self._placement.forget(actor)

    def issue(self, now: float, *, training: bool) -> list[tuple[Peer, Tickets]]:
        """Give tickets to the actors that hold weights, as long as they have room and the contract admits one."""
        self._give_up_due(now)
        given: dict[str, list[Ticket]] = {}
        while (leased := self._lease_next(now, training)) is not None:
            actor, ticket = leased
            given.setdefault(actor, []).append(ticket)
        peers = ((self._peers.named(actor), tickets) for actor, tickets in given.items())
        return [(peer, message) for peer, tickets in peers if peer is not None for message in in_messages(tickets)]

    def _give_up_due(self, now: float) -> None:
        """Fail handed-over tickets that the next batch has waited for in vain while others could make them anew.

        An actor that has room and weights that are too old could. Without room for this ticket there is none for a fresh one.
        """
        due = [
            waiting
            for waiting in self._run.handovers.waiting_since(now - self._silence_s)
            if waiting.ticket.kind is TicketKind.train and self._run.store.is_due(waiting.ticket.ordinal)
        ]
        places = [self._placement.place(actor.name) for actor in self._peers.workers()] if due else []
        for waiting in due:
            able = [place.version for place in places if place is not None and place.room >= waiting.ticket.sampling.n]
            if able and max(able) < waiting.version:
                self._fail_waiting(waiting)

    def _lease_next(self, now: float, training: bool) -> tuple[str, Ticket] | None:
        """Lease the next ticket that is due: (actor, ticket). None when there is none, or no actor for it."""
        versions = self._placement.refresh()
        return self._hand_on_next(versions, now) or self._lease_fresh(versions, now, training)

    def _hand_on_next(self, versions: Sequence[int], now: float) -> tuple[str, Ticket] | None:
        """Lease the ticket that was handed over and waits longest for an actor that goes on with it."""
        # the newest version may go on with any of them
        for newest in versions:
            waiting = self._run.handovers.first_for(newest)
            if waiting is None:
                break
            able = [version for version in versions if waiting.version <= version <= newest]
            actor = self._placement.best(able, waiting.ticket.sampling.n)
            if actor is not None:
                return actor, self._hand_on(waiting, actor, now)
        return None

    def _hand_on(self, waiting: Waiting, actor: str, now: float) -> Ticket:
        ticket = self._run.handovers.take(waiting.ticket.ordinal).ticket
        if ticket.kind is TicketKind.train:
            self._run.store.lease_again(ticket.ordinal)
        self._run.counters.count("buffer/continued")
        self._grant(ticket, actor, now, waiting.until_s)
        return ticket

    def _lease_fresh(self, versions: Sequence[int], now: float, training: bool) -> tuple[str, Ticket] | None:
        """Lease a validation ticket, or else a training ticket to an actor of which no validation is wanted."""
        run = self._run
        wanted = {version: run.validation.wanted(version) for version in versions}
        for version, sampling in wanted.items():
            actor = None if sampling is None else self._placement.best([version], sampling.n)
            if actor is not None:
                ticket = run.validation.issue(run.take_ordinal(), run.store.generation, version)
                self._grant(ticket, actor, now)
                return actor, ticket
        if not training or run.validation.blocks_training:
            return None
        admitted = [version for version, sampling in wanted.items() if sampling is None and run.store.admits(version)]
        placed = self._placement.place_training(admitted, now) if admitted else None
        if placed is None:
            return None
        ticket = run.store.issue(run.take_ordinal(), placed.version, placed.choice)
        self._grant(ticket, placed.actor, now)
        return placed.actor, ticket

    def _grant(self, ticket: Ticket, actor: str, now: float, until_s: float | None = None) -> None:
        self._run.leases.grant(ticket, actor, now, until_s)
        self._run.forecast.note_issue(actor, ticket, self._run.leases.rollouts(actor), now)

    def holds_back(self) -> bool:
        """Whether an actor has room for a training ticket that a larger eta would give it."""
        store = self._run.store
        refused = [version for version in self._placement.refresh() if store.refuses_for_eta(version)]
        return self._placement.best(refused, store.sampling.n) is not None

    def held_by(self, actor: str) -> list[Ticket]:
        """The tickets that an actor works on, in order of issue."""
        return [lease.ticket for lease in self._run.leases.held_by(actor)]

    # --- in ---------------------------------------------------------------------------------------

    def take_group(self, actor: Peer, message: GroupResult, now: float, frame: bytes = b"") -> GroupAck:
        """Take a group, or refuse one that was not asked for. `frame`: the message as it came."""
        group = message.group
        reason = self._refusal(actor, group.ordinal, group.generation)
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
        self._run.forecast.note_group(lease.ticket, group, self._run.leases.rollouts(actor.name), now)
        self._run.leases.end(group.ordinal)
        if group.kind is TicketKind.train:
            outcome, reason = self._run.store.take_group(group, lease.ticket, frame)
            if self._run.curriculum is not None and outcome is not Outcome.failed:
                self._run.curriculum.observe(group)
        else:
            reason = self._run.validation.take_group(group, lease.ticket.version, self._run.store.head)
            outcome = Outcome.failed if reason else Outcome.stored
        if outcome in (Outcome.failed, Outcome.stale):
            self._run.count_lost([lease.ticket])
        else:
            self._run.counters.count("buffer/saved_tokens", lease.ticket.num_started_tokens)
        return GroupAck(ordinal=group.ordinal, accepted=True, reason=f"{outcome}: {reason}" if reason else "")

    def _refusal(self, actor: Peer, ordinal: int, generation: int) -> str:
        """The reason why what an actor sends of a ticket is refused, counted; empty for what was asked for."""
        run, lease = self._run, self._run.leases.find(ordinal)
        if generation != run.store.generation:
            run.counters.count("buffer/dead_generation")
            return f"generation {generation} is over, this is {run.store.generation}"
        if lease is None:
            run.counters.count("buffer/duplicates")
            return "its ticket is settled or handed over, or its lease was lost"
        if lease.actor != actor.name:
            handed_over = actor.name in actors_of(lease.ticket)
            run.counters.count("buffer/duplicates" if handed_over else "buffer/mismatched_groups")
            return f"ticket {ordinal} was given to {lease.actor}"
        return ""

    def take_handover(self, actor: Peer, message: TicketHandedOver, now: float) -> GroupAck:
        """An actor that leaves hands a ticket over: it waits for another one. What nobody can go on with fails the ticket."""
        run, ordinal = self._run, message.ordinal
        reason = self._refusal(actor, ordinal, message.generation)
        if reason:
            return GroupAck(ordinal=ordinal, accepted=False, reason=reason)
        lease = run.leases.find(ordinal)
        assert lease is not None
        ticket = msgspec.structs.replace(lease.ticket, started=message.started)
        defect = run.store.handover_defect(message.started, lease.ticket, actor.name) or self._size_defect(ticket)
        if defect is not None:
            run.counters.count("buffer/failed_handovers")
            run.counters.count(f"buffer/flawed_{defect.kind}")
            self._fail_lease(lease)
            return GroupAck(ordinal=ordinal, accepted=False, reason=defect.why)
        run.leases.end(ordinal)
        run.forecast.note_end(ordinal)
        if ticket.kind is TicketKind.train:
            run.store.hand_over(ticket)
        run.handovers.add(ticket, now, lease.expires_s)
        run.counters.count("buffer/handed_over")
        run.counters.count("buffer/handed_over_tokens", ticket.num_started_tokens - lease.ticket.num_started_tokens)
        return GroupAck(ordinal=ordinal, accepted=True, reason=HANDED_OVER)

    def _size_defect(self, ticket: Ticket) -> Defect | None:
        """A defect when the next actor could not be sent the ticket."""
        num_bytes = len(encode(Tickets(tickets=[ticket])))
        if num_bytes <= self._max_bytes:
            return None
        return Defect("oversized", f"the ticket would take {num_bytes} bytes with it, a message has at most {self._max_bytes}")

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
        """Fail leases that ran out, and those of actors that did not greet a restarted buffer in time.

        Tickets that were handed over fail when the lease would have.
        """
        for actor in self._run.leases.overdue_actors(now):
            self.fail_leases_of(actor)
        for lease in self._run.leases.expired(now):
            self._run.counters.count("buffer/lost_leases")
            self._fail_lease(lease)
        for waiting in self._run.handovers.expired(now):
            self._fail_waiting(waiting)

    def distrust(self, actor: str, version: int) -> None:
        """An actor had wrong weights from `version` on: fail its leases, and all tickets with tokens that it sampled then."""
        self.fail_leases_of(actor)
        for lease in self._run.leases.all():
            if sampled_since(lease.ticket.started, actor, version):
                self._fail_lease(lease)
        for waiting in self._run.handovers.all():
            if sampled_since(waiting.ticket.started, actor, version):
                self._fail_waiting(waiting)
        self._run.store.distrust(actor, version)

    def fail_leases_of(self, actor: str) -> None:
        """An actor is gone, or has wrong weights: fail every ticket that it works on."""
        for lease in self._run.leases.held_by(actor):
            self._run.counters.count("buffer/lost_leases")
            self._fail_lease(lease)

    def _fail_lease(self, lease: Lease) -> None:
        self._fail(self._run.leases.end(lease.ticket.ordinal).ticket)

    def _fail_waiting(self, waiting: Waiting) -> None:
        self._run.counters.count("buffer/lost_handovers")
        self._fail(self._run.handovers.take(waiting.ticket.ordinal).ticket)

    def _fail(self, ticket: Ticket) -> None:
        self._run.forecast.note_end(ticket.ordinal)
        self._run.count_lost([ticket])
        if ticket.kind is TicketKind.train:
            self._run.store.fail_ticket(ticket.ordinal)
        else:
            self._run.validation.fail_ticket(ticket.ordinal)


def in_messages(tickets: Sequence[Ticket]) -> list[Tickets]:
    """The messages for these tickets: one for all fresh ones, and one for each that holds tokens, which may be large."""
    fresh = [ticket for ticket in tickets if not ticket.started]
    alone = [Tickets(tickets=[ticket]) for ticket in tickets if ticket.started]
    return [Tickets(tickets=fresh), *alone] if fresh else alone


def _mismatch(group: Group, ticket: Ticket, actor: str) -> str:
    """The first difference between a group and its ticket, as a sentence; empty when there is none."""
    fields = (
        ("prompt", ticket.prompt, group.prompt),
        ("kind", ticket.kind, group.kind),
        ("setting", ticket.setting, group.setting),
        ("sampling", ticket.sampling, group.sampling),
        ("eta", ticket.eta, group.eta),
    )
    for name, asked, said in fields:
        if asked != said:
            return f"ticket {group.ordinal} has {name} {asked!s:.200}, the group says {said!s:.200}"
    if group.actor != actor:
        return f"the group says that it is of actor {group.actor:.200}, {actor} sent it"
    unknown = names_defect(group.rollouts, actors_of(ticket) | {actor, ""})
    return "" if unknown is None else f"the group of ticket {group.ordinal} has {unknown.why}"
