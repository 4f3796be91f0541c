from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.journal.records import TicketRecord
from prolong.buffer.tickets.leases import Leases
from prolong.common.types import Sampling, Ticket, TicketKind

from ..scene import prompt


def ticket(ordinal: int, *, n: int = 4, lease_s: float = 10.0) -> Ticket:
    return Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=prompt(),
        sampling=Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=8),
        seed=0,
        generation=1,
        version=0,
        lease_s=lease_s,
    )


def test_rollouts_in_flight_follow_grants_and_ends() -> None:
    leases = Leases()
    leases.grant(ticket(0), "a", 0.0)
    leases.grant(ticket(1, n=2), "a", 0.0)
    assert leases.rollouts("a") == 6
    assert leases.end(0).actor == "a"
    assert leases.rollouts("a") == 2
    assert [lease.ticket.ordinal for lease in leases.held_by("a")] == [1]
    leases.end(1)
    assert (leases.rollouts("a"), leases.held_by("a"), leases.find(1)) == (0, [], None)


def test_a_ticket_that_was_handed_over_expires_once_when_its_first_lease_would_have() -> None:
    leases = Leases()
    leases.grant(ticket(0, lease_s=10.0), "a", 0.0)
    until_s = leases.end(0).expires_s
    leases.grant(ticket(0, lease_s=10.0), "b", 8.0, until_s)
    assert leases.expired(9.9) == []
    assert [(lease.ticket.ordinal, lease.actor) for lease in leases.expired(10.0)] == [(0, "b")]


def test_a_lease_ends_once() -> None:
    leases = Leases()
    leases.grant(ticket(0), "a", 0.0)
    leases.end(0)
    with pytest.raises(KeyError):
        leases.end(0)


def test_leases_expire_in_order_and_ended_ones_never() -> None:
    leases = Leases()
    for ordinal, lease_s in ((0, 5.0), (1, 3.0), (2, 4.0), (3, 9.0)):
        leases.grant(ticket(ordinal, lease_s=lease_s), "a", 100.0)
    leases.end(2)
    assert leases.expired(102.9) == []
    assert [lease.ticket.ordinal for lease in leases.expired(105.0)] == [1, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300), st.integers(1, 20)), max_size=400))
def test_leases_expire_at_their_time_however_many_ended_before(events: list[tuple[bool, int, int]]) -> None:
    leases, ends, now = Leases(), dict[int, float](), 0.0
    for number, (ends_one, drawn, lease_s) in enumerate(events):
        if ends_one and ends:
            ordinal = sorted(ends)[drawn % len(ends)]
            leases.end(ordinal)
            del ends[ordinal]
        else:
            leases.grant(ticket(number, lease_s=lease_s), f"actor-{drawn % 5}", now)
            ends[number] = now + lease_s
        now += 0.1 * (drawn % 3)
        lost = {lease.ticket.ordinal for lease in leases.expired(now)}
        assert lost == {ordinal for ordinal, end_s in ends.items() if end_s <= now}
        for ordinal in lost:
            leases.end(ordinal)
            del ends[ordinal]
        assert len(leases._expiry) <= 2 * len(ends) + 66, "one entry for each ticket of the last hour"


def test_a_restart_waits_for_each_actor_once_and_not_beyond_its_time() -> None:
    leases = Leases()
    records = [TicketRecord(ticket=ticket(number), attempt=0, actor=f"actor-{number % 3}") for number in range(6)]
    leases.restore(records, now=5.0, rejoin_grace_s=10.0)
    assert leases.rejoin("actor-1")
    assert not leases.rejoin("actor-1")
    assert leases.overdue_actors(15.0) == []
    assert leases.overdue_actors(15.1) == ["actor-0", "actor-2"]
    assert leases.overdue_actors(15.2) == []
