"""The audit of a journal: every record is read once, and the ledger's moves must add up to its counts.

    counts of the oldest state that is recorded (or zero)  +  every move since  =  counts of the newest state

Tickets under way and stored groups have records, batches have their groups, and the moves of a ticket follow one another.
Every decision about eta is made again from its numbers, and every plan of a curriculum whose observations are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ..common.errors import JournalError
from ..common.types import TicketKind, TicketState
from .journal import records as r
from .journal.journal import Journal
from .tickets.adaptive import LAW, check_decisions
from .tickets.curriculum import check_plans
from .tickets.ledger import NOWHERE, TRANSITIONS

STATES = list(TicketState)
MAX_FINDINGS = 20  # described; the others are counted

T = TypeVar("T")


@dataclass
class Audit:
    """The result; a journal is sound when `findings` is empty."""

    findings: list[str] = field(default_factory=list)
    num_findings: int = 0
    num_records: int = 0
    num_moves: int = 0
    num_decisions: int = 0  # about eta
    num_plans: int = 0  # of the curriculum
    batches: list[int] = field(default_factory=list)  # versions
    ledger: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0

    def find(self, what: str) -> None:
        """Add a finding."""
        self.num_findings += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(what)


def audit(journal: Journal) -> Audit:
    """Audit a journal. Broken records are findings; nothing is raised for them."""
    found = Audit(num_bytes=journal.num_bytes())
    newest = _try(found, journal.load_state)
    if newest is None:
        if not found.findings:
            found.find("it holds no state: the buffer never committed anything")
        return found
    found.ledger = newest.ledger | {"total": sum(newest.ledger.values())}
    found.num_records += 2  # the state and the format, which was read when the journal was opened
    for version in journal.states():
        if _try(found, lambda version=version: journal.load_state(version)) is not None:
            found.num_records += 1
    for version in sorted(set(newest.checkpoints) - set(journal.states())):
        found.find(f"the learner retains the checkpoint of version {version}, the state that belongs to it is gone")
    _try(found, journal.sweeps)
    _try(found, journal.scores)
    tickets = _try(found, journal.tickets) or []
    found.num_records += len(tickets) + len(_try(found, journal.retries) or {})
    batched = _check_batches(found, journal, newest)
    waiting = _check_groups(found, journal, {record.ticket.ordinal for record in tickets}, batched)
    for defect in _try(found, journal.defects) or []:
        found.find(defect)
    _check_counts(found, newest, tickets, waiting)
    _check_moves(found, journal, newest)
    decisions = _try(found, journal.eta_records) or []
    found.num_decisions = sum(record.law == LAW for record in decisions)
    found.num_records += len(decisions)
    for defect in check_decisions(decisions, newest.eta):
        found.find(defect.sentence())
    _check_curriculum(found, journal, newest)
    return found


def _check_curriculum(found: Audit, journal: Journal, newest: r.BufferState) -> None:
    """Make the plans again, and look for those that a recorded cursor names."""
    numbers = sorted({*journal.plans(), *journal.plan_outlines()})
    seen = _try(found, journal.observations) or {}
    found.num_records += len(seen)
    states = [newest, *(_try(found, lambda version=version: journal.load_state(version)) for version in journal.states())]
    for number in sorted({r.plan_number(state.cursor) for state in states if state is not None} - {0, *numbers}):
        found.find(f"plan {number} of the curriculum is gone, and prompts are drawn by it")
    for wrong in check_plans(_plans(found, journal, numbers), seen):
        found.find(wrong.sentence())


def _plans(found: Audit, journal: Journal, numbers: list[int]) -> Iterator[r.PlanOutline]:
    """The plans that can be read, counted; an outline where there is no more."""
    for number in numbers:
        plan = _try(found, lambda number=number: journal.plan(number) or journal.plan_outline(number))
        if plan is not None:
            found.num_plans += 1
            found.num_records += 1
            yield plan


def _try(found: Audit, read: Callable[[], T]) -> T | None:
    """The result of `read`; None, and a finding, for a record that cannot be read."""
    try:
        return read()
    except JournalError as error:
        found.find(str(error))
        return None


def _check_batches(found: Audit, journal: Journal, newest: r.BufferState) -> set[int]:
    """Check the batches; returns the ordinals of their groups."""
    batched: Counter[int] = Counter()
    for version in journal.versions():
        record = _try(found, lambda version=version: journal.batch_record(version))
        if record is None:
            continue
        found.num_records += 1
        found.batches.append(version)
        batched.update(record.ordinals)
    expected = list(range(found.batches[0], newest.head)) if found.batches else []
    for version in sorted(set(expected) ^ set(found.batches)):
        found.find(f"batch {version}: expected every version from the first that is kept to {newest.head - 1}, and no other")
    for ordinal, times in batched.items():
        if times > 1:
            found.find(f"ticket {ordinal} is in {times} batches")
    return set(batched)


def _check_groups(found: Audit, journal: Journal, under_way: set[int], batched: set[int]) -> set[int]:
    """Check the groups; returns the ordinals of those that are in no batch."""
    present = set(journal.groups())
    for ordinal in sorted(batched - present):
        found.find(f"the group of ticket {ordinal} is in a batch and lost")
    for ordinal in sorted(present - batched - under_way):
        found.find(f"the group of ticket {ordinal} is in no batch, and its ticket is not under way")
    for ordinal in present:
        if _try(found, lambda ordinal=ordinal: journal.group(ordinal)) is not None:
            found.num_records += 1
    return present - batched


def _check_counts(found: Audit, newest: r.BufferState, tickets: list[r.TicketRecord], waiting: set[int]) -> None:
    """Check that the tickets under way are those that the ledger counts."""
    train = {record.ticket.ordinal for record in tickets if record.ticket.kind is TicketKind.train}
    handed_over = {record.ticket.ordinal for record in tickets if record.waits} & train
    leased = train - waiting - handed_over
    counted = {"issued": len(handed_over), "leased": len(leased), "stored": len(train & waiting)}
    for state, count in counted.items():
        if newest.ledger.get(state, 0) != count:
            found.find(f"{count} tickets are {state}, the ledger counts {newest.ledger.get(state, 0)}")
    if min(newest.ledger.values(), default=0) < 0:
        found.find(f"a count is negative: {newest.ledger}")


def _check_moves(found: Audit, journal: Journal, newest: r.BufferState) -> None:
    """Check that the recorded moves lead from the oldest state to the newest."""
    first, moves = _try(found, journal.moves) or (0, [])
    found.num_moves = len(moves)
    if first + len(moves) != newest.num_moves:
        found.find(f"the ledger made {newest.num_moves} moves, those from {first} to {first + len(moves)} are recorded")
        return
    base = None if first == 0 else _oldest_state(found, journal, first)
    if first > 0 and base is None:
        found.find(f"moves before {first} are gone, and no recorded state replaces them")
        return
    start = 0 if base is None else base.num_moves - first
    counts = Counter({} if base is None else {state: count for state, count in base.ledger.items() if count})
    counts = _add_up(found, moves[start:], counts)
    for state in STATES:
        if counts[state.value] != newest.ledger.get(state.value, 0):
            said = newest.ledger.get(state.value, 0)
            found.find(f"the moves add up to {counts[state.value]} {state.value}, the ledger says {said}")
    found.num_records += 1


def _oldest_state(found: Audit, journal: Journal, first: int) -> r.BufferState | None:
    states = (_try(found, lambda version=version: journal.load_state(version)) for version in journal.states())
    usable = [state for state in states if state is not None and state.num_moves >= first]
    return min(usable, key=lambda state: state.num_moves, default=None)


def _add_up(found: Audit, moves: list[r.Move], counts: Counter[str]) -> Counter[str]:
    """The counts after these moves, each of which must be allowed and follow the ticket's move before it."""
    last: dict[int, int] = {}
    for move in moves:
        before = last.get(move.ordinal, move.from_state) if move.ordinal >= 0 else move.from_state
        if before != move.from_state:
            found.find(f"ticket {move.ordinal} was {_name(before)} and then left {_name(move.from_state)}")
        if move.from_state != NOWHERE and STATES[move.to_state] not in TRANSITIONS[STATES[move.from_state]]:
            found.find(f"ticket {move.ordinal} went from {_name(move.from_state)} to {_name(move.to_state)}")
        last[move.ordinal] = move.to_state
        counts[STATES[move.to_state].value] += move.count
        if move.from_state != NOWHERE:
            counts[STATES[move.from_state].value] -= move.count
    return counts


def _name(code: int) -> str:
    return "nothing" if code == NOWHERE else STATES[code].value
