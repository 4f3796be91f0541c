"""The ledger: every training ticket is in exactly one state, and the counts of all states add up to the tickets ever issued.

    issued <-> leased -> stored -> batched -> trained
                 |         |         |          |
                 +---------+---------+----------+--> filtered | stale | failed   (TRANSITIONS says which)

A leased ticket is issued again, with its ordinal, when its actor leaves and hands it over (handovers.py).
Entries exist for issued, leased and stored tickets only; later a ticket is only counted, so admission bounds the memory.
Duplicates are recognised by the same rule: an ordinal without an entry is settled.
The journal records the changes since the last `take_changes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...common.errors import LedgerError
from ...common.types import Group, Ticket, TicketState
from ..journal.records import Move

TRANSITIONS: dict[TicketState, frozenset[TicketState]] = {
    TicketState.issued: frozenset({TicketState.leased, TicketState.stale, TicketState.failed}),
    TicketState.leased: frozenset(
        {TicketState.issued, TicketState.stored, TicketState.filtered, TicketState.stale, TicketState.failed}
    ),
    TicketState.stored: frozenset({TicketState.batched, TicketState.stale, TicketState.failed}),
    TicketState.batched: frozenset({TicketState.trained, TicketState.stale}),
    # a learner that restarts repeats steps, or begins a generation without them
    TicketState.trained: frozenset({TicketState.batched, TicketState.stale}),
    TicketState.filtered: frozenset(),
    TicketState.stale: frozenset(),
    TicketState.failed: frozenset(),
}
_WITH_ENTRY = (TicketState.issued, TicketState.leased, TicketState.stored)
# states in a `Move`; a ticket that is issued comes from NOWHERE
CODES = {state: code for code, state in enumerate(TicketState)}
NOWHERE = -1


@dataclass(slots=True)
class Entry:
    """A ticket that has not been batched or dropped yet."""

    ticket: Ticket
    attempt: int  # 0 for the first ticket of a prompt, +1 with every reissue
    state: TicketState = TicketState.issued
    group: Group | None = None  # from stored on


@dataclass(slots=True)
class Changes:
    """Changes that the journal has yet to record."""

    moves: list[Move] = field(default_factory=list)  # in order
    touched: dict[int, None] = field(default_factory=dict)  # ordinals of the tickets that moved, in order
    # groups, with the frames that they came in
    stored: dict[int, tuple[Group, bytes]] = field(default_factory=dict)


class Ledger:
    """Counts per state, and the entries of tickets that can still become a batch."""

    def __init__(self) -> None:
        self.counts: dict[TicketState, int] = dict.fromkeys(TicketState, 0)
        self.total = 0
        self._entries: dict[int, Entry] = {}
        self._changes = Changes()

    @property
    def untrained(self) -> int:
        """The number of tickets that admission counts: issued, leased, stored and batched."""
        return len(self._entries) + self.counts[TicketState.batched]

    def issue(self, ticket: Ticket, attempt: int = 0) -> Entry:
        """Add a ticket. Raises LedgerError when its ordinal is taken."""
        if ticket.ordinal in self._entries:
            raise LedgerError(f"ticket {ticket.ordinal} was issued twice")
        entry = Entry(ticket=ticket, attempt=attempt)
        self._entries[ticket.ordinal] = entry
        self.total += 1
        self.counts[TicketState.issued] += 1
        self._note(ticket.ordinal, NOWHERE, TicketState.issued)
        return entry

    def find(self, ordinal: int) -> Entry | None:
        """The entry of an issued, leased or stored ticket; None when it is settled or was never issued."""
        return self._entries.get(ordinal)

    def entries(self) -> list[Entry]:
        """All entries, in order of issue."""
        return list(self._entries.values())

    def move(self, ordinal: int, to: TicketState) -> Entry:
        """Move one ticket to another state. Raises LedgerError when it is settled or TRANSITIONS does not allow the move."""
        entry = self._entries.get(ordinal)
        if entry is None:
            raise LedgerError(f"ticket {ordinal} cannot become {to}: it is settled, or was never issued")
        self._count(entry.state, to, 1)
        self._note(ordinal, CODES[entry.state], to)
        entry.state = to
        if to not in _WITH_ENTRY:
            del self._entries[ordinal]
        return entry

    def store(self, group: Group, frame: bytes = b"") -> None:
        """Store the group of a leased ticket; `frame` is the message that it came in. Raises LedgerError."""
        self.move(group.ordinal, TicketState.stored).group = group
        self._changes.stored[group.ordinal] = (group, frame)

    def shift(self, from_state: TicketState, to_state: TicketState, num_tickets: int = 1) -> None:
        """Move tickets that have no entry: batched and trained ones. Raises LedgerError."""
        self._count(from_state, to_state, num_tickets)
        if num_tickets:
            self._changes.moves.append(Move(-1, CODES[from_state], CODES[to_state], num_tickets))

    def _count(self, from_state: TicketState, to_state: TicketState, num_tickets: int) -> None:
        if to_state not in TRANSITIONS[from_state]:
            raise LedgerError(
                f"a ticket cannot go from {from_state} to {to_state}; "
                f"it may become {[state.value for state in sorted(TRANSITIONS[from_state])]}"
            )
        if num_tickets < 0 or self.counts[from_state] < num_tickets:
            raise LedgerError(
                f"{num_tickets} tickets cannot go from {from_state} to {to_state}: there are {self.counts[from_state]}"
            )
        self.counts[from_state] -= num_tickets
        self.counts[to_state] += num_tickets

    def adopt(self, num_tickets: int) -> None:
        """Count tickets as trained that were never issued here: a learner came with steps that the journal does not have."""
        self.total += num_tickets
        self.counts[TicketState.trained] += num_tickets
        self._changes.moves.append(Move(-1, NOWHERE, CODES[TicketState.trained], num_tickets))

    def restore(self, counts: dict[TicketState, int], entries: list[Entry]) -> None:
        """Become the recorded ledger; entries in order of issue."""
        self._entries = {entry.ticket.ordinal: entry for entry in entries}
        self.counts = dict.fromkeys(TicketState, 0) | counts
        self.total = sum(counts.values())
        self._changes = Changes()

    def take_changes(self) -> Changes:
        """The changes since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def _note(self, ordinal: int, from_state: int, to_state: TicketState) -> None:
        self._changes.moves.append(Move(ordinal, from_state, CODES[to_state]))
        self._changes.touched[ordinal] = None

    @property
    def balanced(self) -> bool:
        """Whether the conservation law holds: issued = sum of the states, and every ticket that needs an entry has one."""
        counts = self.counts
        live = counts[TicketState.issued] + counts[TicketState.leased] + counts[TicketState.stored]
        return self.total == sum(counts.values()) and len(self._entries) == live and min(counts.values()) >= 0

    def check(self, num_trained: int) -> None:
        """Raise LedgerError unless the ledger balances and exactly `num_trained` tickets are trained."""
        if not self.balanced:
            raise LedgerError(f"ledger out of balance: {self.total} issued, {self.as_dict()}, {len(self._entries)} entries")
        if self.counts[TicketState.trained] != num_trained:
            raise LedgerError(
                f"{self.counts[TicketState.trained]} tickets are trained, but the learner's version says {num_trained}"
            )

    def as_dict(self) -> dict[str, int]:
        """One count per state, and "total"."""
        return {state.value: count for state, count in self.counts.items()} | {"total": self.total}
