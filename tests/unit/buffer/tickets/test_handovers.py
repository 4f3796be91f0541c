from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.tickets.handovers import Handovers, Waiting
from prolong.common.types import Sampling, StartedRollout, Ticket, TicketKind, VersionSpan

from ..scene import prompt


def ticket(ordinal: int, *versions: int) -> Ticket:
    spans = [VersionSpan(version=version, start=k, end=k + 1) for k, version in enumerate(versions)]
    tokens = b"\0" * 4 * len(versions)
    return Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=prompt(),
        sampling=Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=8),
        seed=0,
        generation=1,
        version=0,
        lease_s=10.0,
        started=[StartedRollout(index=0, token_ids=tokens, behaviour_logprobs=tokens, spans=spans)] if versions else [],
    )


def test_an_actor_may_go_on_with_tokens_that_are_not_newer_than_its_weights() -> None:
    handovers = Handovers()
    for ordinal, versions in ((4, (0, 3)), (2, (1,)), (7, ())):
        handovers.add(ticket(ordinal, *versions), now=float(ordinal), until_s=20.0)
    first = [handovers.first_for(version) for version in (0, 1, 2, 3)]
    assert [waiting and waiting.ticket.ordinal for waiting in first] == [7, 2, 2, 4]
    assert [waiting and waiting.version for waiting in first] == [0, 1, 1, 3]


EVENTS = st.lists(st.tuples(st.sampled_from(("add", "take", "wait")), st.integers(0, 8), st.integers(0, 3)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_questions_are_answered_as_if_every_ticket_were_looked_at(events: list[tuple[str, int, int]]) -> None:
    handovers, simple, now = Handovers(), dict[int, Waiting](), 0.0
    for what, ordinal, number in events:
        if what == "add" and ordinal not in simple:
            handovers.add(ticket(ordinal, number), now, now + number)
            added = handovers.find(ordinal)
            assert added is not None
            simple[ordinal] = added
        elif what == "take" and ordinal in simple:
            assert handovers.take(ordinal) == simple.pop(ordinal)
        elif what == "wait":
            now += number / 2
            ended = [waiting for waiting in simple.values() if now >= waiting.until_s]
            expired = handovers.expired(now)
            assert {waiting.ticket.ordinal for waiting in expired} == {waiting.ticket.ordinal for waiting in ended}
            for waiting in expired:
                handovers.take(waiting.ticket.ordinal)
                del simple[waiting.ticket.ordinal]
        assert handovers.all() == list(simple.values())
        assert handovers.waiting_since(now - 1) == [waiting for waiting in simple.values() if waiting.since_s <= now - 1]
        for version in range(4):
            assert handovers.first_for(version) == next((w for w in simple.values() if w.version <= version), None)
