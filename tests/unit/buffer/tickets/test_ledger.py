from __future__ import annotations

import pytest
from prolong.buffer.tickets.ledger import TRANSITIONS, Ledger
from prolong.common.errors import LedgerError
from prolong.common.types import Sampling, Ticket, TicketKind, TicketState

from ..scene import group, prompt, rollout

S = TicketState


def ticket(ordinal: int) -> Ticket:
    sampling = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8)
    return Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=prompt(),
        sampling=sampling,
        seed=0,
        generation=1,
        version=0,
        lease_s=1.0,
    )


def test_a_ticket_walks_from_issue_to_trained_and_the_ledger_balances_at_every_step() -> None:
    ledger = Ledger()
    ledger.issue(ticket(0))
    for state in (S.leased, S.stored, S.batched):
        ledger.move(0, state)
        assert ledger.balanced
        assert ledger.counts[state] == 1
        assert ledger.untrained == 1
    ledger.shift(S.batched, S.trained)
    ledger.check(num_trained=1)
    assert (ledger.total, ledger.untrained) == (1, 0)


def test_every_transition_that_is_not_listed_is_refused() -> None:
    for of in S:
        for to in S:
            ledger = Ledger()
            ledger.restore({of: 1}, [])
            if to in TRANSITIONS[of]:
                ledger.shift(of, to)
                assert ledger.counts[to] == 1
            else:
                with pytest.raises(LedgerError, match=f"from {of} to {to}"):
                    ledger.shift(of, to)


def test_a_settled_ticket_is_forgotten_and_cannot_move_again() -> None:
    ledger = Ledger()
    ledger.issue(ticket(5))
    ledger.move(5, S.leased)
    ledger.move(5, S.failed)
    assert ledger.find(5) is None
    assert ledger.entries() == []
    with pytest.raises(LedgerError, match="ticket 5 cannot become stored: it is settled"):
        ledger.move(5, S.stored)


def test_memory_is_bounded_by_live_tickets() -> None:
    ledger = Ledger()
    for ordinal in range(2_000):
        ledger.issue(ticket(ordinal))
        ledger.move(ordinal, S.leased)
        ledger.move(ordinal, S.stored if ordinal % 2 else S.filtered)
        if ordinal % 2:
            ledger.move(ordinal, S.batched)
            ledger.shift(S.batched, S.trained)
    assert len(ledger.entries()) == 0
    assert ledger.as_dict() | {"total": 2_000, "trained": 1_000, "filtered": 1_000} == ledger.as_dict()


def test_an_ordinal_is_issued_once() -> None:
    ledger = Ledger()
    ledger.issue(ticket(1))
    with pytest.raises(LedgerError, match="ticket 1 was issued twice"):
        ledger.issue(ticket(1))


def test_more_tickets_than_there_are_cannot_move() -> None:
    ledger = Ledger()
    ledger.restore({S.trained: 3}, [])
    with pytest.raises(LedgerError, match="4 tickets cannot go from trained to stale: there are 3"):
        ledger.shift(S.trained, S.stale, 4)


def test_check_names_what_is_wrong() -> None:
    ledger = Ledger()
    ledger.adopt(4)
    ledger.check(num_trained=4)
    with pytest.raises(LedgerError, match="4 tickets are trained, but the learner's version says 6"):
        ledger.check(num_trained=6)
    ledger.counts[S.failed] += 1
    with pytest.raises(LedgerError, match="out of balance: 4 issued"):
        ledger.check(num_trained=4)


def test_every_step_is_told_once_and_groups_with_the_frames_that_they_came_in() -> None:
    ledger, stored = Ledger(), group(ticket(0), rollout(0), rollout(0, reward=0.0))
    ledger.issue(ticket(0))
    ledger.move(0, S.leased)
    ledger.store(stored, b"frame")
    ledger.move(0, S.batched)
    ledger.shift(S.batched, S.trained)
    ledger.adopt(2)
    changes = ledger.take_changes()
    states = list(S)
    steps = [
        (move.ordinal, states[move.from_state] if move.from_state >= 0 else None, states[move.to_state], move.count)
        for move in changes.moves
    ]
    assert steps == [
        (0, None, S.issued, 1),
        (0, S.issued, S.leased, 1),
        (0, S.leased, S.stored, 1),
        (0, S.stored, S.batched, 1),
        (-1, S.batched, S.trained, 1),
        (-1, None, S.trained, 2),
    ]
    assert changes.stored == {0: (stored, b"frame")}
    assert list(changes.touched) == [0]
    assert ledger.take_changes().moves == []
