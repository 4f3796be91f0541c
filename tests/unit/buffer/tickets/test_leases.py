from __future__ import annotations

import pytest
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
