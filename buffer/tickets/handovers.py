"""Tickets that actors handed over when they left: they wait, with the tokens sampled so far, for an actor that goes on.

    leased --TicketHandedOver--> waiting here, `issued` in the ledger --Tickets--> leased to another actor

A ticket keeps its ordinal, its deadline and the time at which its first lease ends. An actor may go on with it if its weights
are not older than any token: then no rollout goes back in version, and the group becomes no staler than its tokens are.
Training and validation tickets alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...common.types import Ticket


@dataclass(slots=True, frozen=True)
class Waiting:
    """A ticket in no actor's hands."""

    ticket: Ticket
    since_s: float
    until_s: float  # the end of its lease: then it has failed

    @property
    def version(self) -> int:
        """The oldest version that an actor may go on with it from."""
        versions = (span.version for rollout in self.ticket.started for span in rollout.spans)
        return max(versions, default=self.ticket.version)


class Handovers:
    """The waiting tickets, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._touched: dict[int, None] = {}

    def add(self, ticket: Ticket, now: float, until_s: float) -> None:
        """`ticket` waits from `now` on, `until_s` at most."""
        self._waiting[ticket.ordinal] = Waiting(ticket, now, until_s)
        self._touched[ticket.ordinal] = None

    def find(self, ordinal: int) -> Waiting | None:
        """The waiting ticket of this ordinal."""
        return self._waiting.get(ordinal)

    def first_for(self, version: int) -> Waiting | None:
        """The ticket that waits longest of those that an actor of `version` may go on with."""
        return next((waiting for waiting in self._waiting.values() if waiting.version <= version), None)

    def take(self, ordinal: int) -> Waiting:
        """Remove a ticket: it is leased, or has failed. Raises KeyError when it does not wait."""
        self._touched[ordinal] = None
        return self._waiting.pop(ordinal)

    def all(self) -> list[Waiting]:
        """Every waiting ticket."""
        return list(self._waiting.values())

    def take_changes(self) -> list[int]:
        """Ordinals of tickets that came or went since the last call, for the journal."""
        touched = list(self._touched)
        self._touched.clear()
        return touched

    def restore(self, tickets: Iterable[Ticket], now: float) -> None:
        """Become what was recorded: clocks start at `now`."""
        self._waiting = {ticket.ordinal: Waiting(ticket, now, now + ticket.lease_s) for ticket in tickets}
        self._touched.clear()
