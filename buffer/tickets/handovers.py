"""Tickets that actors handed over when they left: they wait, with the tokens sampled so far, for an actor that goes on.

    leased --TicketHandedOver--> waiting here, `issued` in the ledger --Tickets--> leased to another actor

A ticket keeps its ordinal, its deadline and the time at which its first lease ends. An actor may go on with it if its weights
are not older than any token: then no rollout goes back in version, and the group becomes no staler than its tokens are.
Training and validation tickets alike.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from ...common.types import Ticket


@dataclass(slots=True, frozen=True)
class Waiting:
    """A ticket in no actor's hands."""

    ticket: Ticket
    since_s: float
    until_s: float  # the end of its lease: then it has failed
    version: int  # the oldest that an actor may go on with it from
    order: int  # of its coming


class Handovers:
    """The waiting tickets, in the order in which they came, by version and by the end of their lease.

    Thousands wait when many actors leave at once; the clocks that `add` and the questions are given never go back.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        # version -> those that an actor of this version or a later one may go on with
        self._by_version: dict[int, OrderedDict[int, Waiting]] = {}
        # heap of (end of the lease, ordinal); those that left meanwhile are skipped
        self._expiry: list[tuple[float, int]] = []
        self._num_came = 0
        self._touched: dict[int, None] = {}

    def add(self, ticket: Ticket, now: float, until_s: float) -> None:
        """`ticket` waits from `now` on, `until_s` at most."""
        self._enter(ticket, now, until_s)
        self._touched[ticket.ordinal] = None

    def _enter(self, ticket: Ticket, now: float, until_s: float) -> None:
        waiting = Waiting(ticket, now, until_s, needed_version(ticket), self._num_came)
        self._num_came += 1
        self._waiting[ticket.ordinal] = waiting
        self._by_version.setdefault(waiting.version, OrderedDict())[ticket.ordinal] = waiting
        heapq.heappush(self._expiry, (until_s, ticket.ordinal))

    def find(self, ordinal: int) -> Waiting | None:
        """The waiting ticket of this ordinal."""
        return self._waiting.get(ordinal)

    def first_for(self, version: int) -> Waiting | None:
        """The ticket that waits longest of those that an actor of `version` may go on with."""
        firsts = (next(iter(those.values())) for oldest, those in self._by_version.items() if oldest <= version)
        return min(firsts, key=lambda waiting: waiting.order, default=None)

    def take(self, ordinal: int) -> Waiting:
        """Remove a ticket: it is leased, or has failed. Raises KeyError when it does not wait."""
        waiting = self._waiting.pop(ordinal)
        self._touched[ordinal] = None
        del self._by_version[waiting.version][ordinal]
        if not self._by_version[waiting.version]:
            del self._by_version[waiting.version]
        return waiting

    def all(self) -> list[Waiting]:
        """Every waiting ticket."""
        return list(self._waiting.values())

    def expired(self, now: float) -> list[Waiting]:
        """Those whose lease has ended by `now`, the earliest first; the caller takes them."""
        # a ticket that waited before may have two entries
        ended: dict[int, Waiting] = {}
        while self._expiry and self._expiry[0][0] <= now:
            until_s, ordinal = heapq.heappop(self._expiry)
            waiting = self._waiting.get(ordinal)
            if waiting is not None and waiting.until_s == until_s:
                ended[ordinal] = waiting
        return list(ended.values())

    def waiting_since(self, before_s: float) -> list[Waiting]:
        """Those that came at `before_s` or earlier, in order."""
        return list(takewhile(lambda waiting: waiting.since_s <= before_s, self._waiting.values()))

    def take_changes(self) -> list[int]:
        """Ordinals of tickets that came or went since the last call, for the journal."""
        touched = list(self._touched)
        self._touched.clear()
        return touched

    def restore(self, tickets: Iterable[Ticket], now: float) -> None:
        """Become what was recorded: clocks start at `now`."""
        for ticket in tickets:
            self._enter(ticket, now, now + ticket.lease_s)


def needed_version(ticket: Ticket) -> int:
    """The oldest version that an actor may go on with a ticket from: that of its newest token."""
    versions = (span.version for rollout in ticket.started for span in rollout.spans)
    return max(versions, default=ticket.version)
