"""The staleness contract alone, under any order of events that hypothesis generates, with an eta that moves among them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from prolong.buffer.tickets.staleness import StalenessContract, choose_counts, required
from prolong.common.config.sections import Preference, Straggler

Events = list[tuple[str, int]]
MAXIMUM = 4
EVENTS = st.lists(
    st.tuples(st.sampled_from(("issue", "issue", "store", "drop", "take", "move")), st.integers(0, 50)), max_size=150
)


class Tickets:
    """A contract and the tickets under it, by ordinal: the version of the oldest token, and the eta of the issue."""

    def __init__(self, eta: int, batch: int, straggler: Straggler, preference: Preference) -> None:
        self.contract = StalenessContract(
            eta=eta, maximum=MAXIMUM, batch=batch, steps=10**6, straggler=straggler, preference=preference
        )
        self.waiting: dict[int, int] = {}
        self.stored: dict[int, int] = {}
        self.etas: dict[int, int] = {}

    def issue(self, number: int) -> None:
        contract = self.contract
        version = max(contract.head - number % (MAXIMUM + 2), 0)
        if contract.admits(version, contract.head, len(self.waiting) + len(self.stored)):
            ordinal = len(self.etas)
            contract.issue(ordinal, version)
            self.waiting[ordinal], self.etas[ordinal] = version, contract.eta

    def store(self, number: int) -> None:
        ordinal = sorted(self.waiting)[number % len(self.waiting)]
        version = min(self.waiting[ordinal] + number % 2, self.contract.head)
        in_time = version + self.etas[ordinal] >= self.contract.head
        assert self.contract.in_time(ordinal, version) == in_time
        if in_time:
            self.contract.store(ordinal, version)
            self.stored[ordinal] = version
        else:
            self.contract.drop(ordinal)
        del self.waiting[ordinal]

    def drop(self, number: int) -> None:
        ordinals = sorted({**self.waiting, **self.stored})
        ordinal = ordinals[number % len(ordinals)]
        self.contract.drop(ordinal)
        self.waiting.pop(ordinal, None)
        self.stored.pop(ordinal, None)

    def take(self, chosen: list[int]) -> None:
        assert len(chosen) == self.contract.batch
        assert all(self.contract.head - self.stored.pop(ordinal) <= self.etas[ordinal] for ordinal in chosen)
        late = self.contract.take(chosen)
        for ordinal in late:
            assert self.stored.pop(ordinal) + self.etas[ordinal] < self.contract.head
        assert not late or self.contract.straggler is not Straggler.wait

    def happens(self, what: str, number: int) -> None:
        if what == "issue":
            self.issue(number)
        elif what == "move":
            self.contract.move(number % (MAXIMUM + 1))
        elif what == "store" and self.waiting:
            self.store(number)
        elif what == "drop" and (self.waiting or self.stored):
            self.drop(number)
        elif what == "take" and (chosen := self.contract.choose()) is not None:
            self.take(chosen)

    def deadlines(self) -> dict[int, int]:
        return {ordinal: version + self.etas[ordinal] for ordinal, version in {**self.waiting, **self.stored}.items()}

    def assert_every_deadline_can_be_met(self) -> None:
        contract, deadlines = self.contract, self.deadlines()
        assert contract.deadlines == deadlines, "a ticket keeps the eta of its issue, whatever eta is now"
        for k in range(MAXIMUM + 1):
            assert sum(due <= contract.head + k for due in deadlines.values()) <= (k + 1) * contract.batch
        assert all(due <= contract.head + MAXIMUM for due in deadlines.values())


def any_tickets(*stragglers: Straggler) -> SearchStrategy[Tickets]:
    """No tickets yet, under a contract of one of these policies."""
    return st.builds(
        Tickets,
        eta=st.integers(0, MAXIMUM),
        batch=st.integers(1, 3),
        straggler=st.sampled_from(stragglers),
        preference=st.sampled_from(list(Preference)),
    )


@settings(max_examples=400, deadline=None)
@given(EVENTS, any_tickets(Straggler.wait))
def test_whatever_happens_every_deadline_can_be_met_and_is(events: Events, tickets: Tickets) -> None:
    for what, number in events:
        tickets.happens(what, number)
        tickets.assert_every_deadline_can_be_met()
    contract = tickets.contract
    for ordinal, version in sorted(tickets.waiting.items()):
        contract.store(ordinal, version)
        tickets.stored[ordinal] = version
    while len(tickets.stored) >= contract.batch:  # once all have arrived, the learner never waits
        chosen = contract.choose()
        assert chosen is not None
        tickets.take(chosen)


@settings(max_examples=200, deadline=None)
@given(EVENTS, any_tickets(Straggler.evict, Straggler.mask))
def test_evict_and_mask_never_train_what_its_ticket_does_not_allow(events: Events, tickets: Tickets) -> None:
    """`Tickets.take` looks."""
    for what, number in events:
        tickets.happens(what, number)


@settings(max_examples=200, deadline=None)
@given(EVENTS, any_tickets(Straggler.wait))
def test_a_larger_eta_admits_at_once_and_a_smaller_one_drains(events: Events, tickets: Tickets) -> None:
    """An actor with the newest weights gets a ticket exactly while fewer than (eta + 1) B are under way."""
    for what, number in events:
        tickets.happens(what, number)
        contract, untrained = tickets.contract, len(tickets.waiting) + len(tickets.stored)
        before = contract.eta
        for moved in range(MAXIMUM + 1):
            contract.move(moved)
            assert contract.admits(contract.head, contract.head, untrained) == (untrained < (moved + 1) * contract.batch)
        contract.move(before)


def simple_choice(tickets: Tickets) -> list[int] | None:
    """The choice by sorting all stored groups."""
    contract, due = tickets.contract, tickets.deadlines()
    classes = range(contract.head, contract.head + MAXIMUM + 1)
    stored = [sorted(ordinal for ordinal in tickets.stored if due[ordinal] == deadline) for deadline in classes]
    pending = [sum(one == deadline for one in due.values()) for deadline in classes]
    waits = contract.straggler is Straggler.wait
    need = required(pending, contract.batch) if waits else [0] * len(pending)
    counts = choose_counts([*map(len, stored)], need, contract.batch, contract.preference)
    return None if counts is None else sorted(n for group, count in zip(stored, counts, strict=True) for n in group[:count])


def simply_admitted(tickets: Tickets, version: int) -> bool:
    """Admission by every inequality of (F)."""
    contract, due = tickets.contract, [*tickets.deadlines().values(), version + tickets.contract.eta]
    if len(due) > (contract.eta + 1) * contract.batch or version > contract.head or version + contract.eta < contract.head:
        return False
    within = (sum(one <= contract.head + k for one in due) <= (k + 1) * contract.batch for k in range(MAXIMUM + 1))
    return contract.straggler is not Straggler.wait or all(within)


@settings(max_examples=400, deadline=None)
@given(EVENTS, any_tickets(*Straggler))
def test_choice_and_admission_are_those_of_the_simple_form(events: Events, tickets: Tickets) -> None:
    for what, number in events:
        tickets.happens(what, number)
        contract, untrained = tickets.contract, len(tickets.waiting) + len(tickets.stored)
        assert contract.choose() == simple_choice(tickets)
        for version in range(max(contract.head - MAXIMUM - 1, 0), contract.head + 2):
            assert contract.admits(version, contract.head, untrained) == simply_admitted(tickets, version), version
