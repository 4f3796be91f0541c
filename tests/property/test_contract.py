"""The staleness contract alone, under any order of events that hypothesis generates."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.tickets.staleness import StalenessContract
from prolong.common.config.sections import Preference, Straggler

EVENTS = st.lists(st.tuples(st.sampled_from(("issue", "store", "drop", "take")), st.integers(0, 50)), max_size=120)


@settings(max_examples=300, deadline=None)
@given(EVENTS, st.integers(0, 3), st.integers(1, 3), st.sampled_from(list(Preference)))
def test_whatever_happens_every_deadline_can_be_met_and_is(
    events: list[tuple[str, int]], eta: int, batch: int, preference: Preference
) -> None:
    contract = StalenessContract(eta=eta, batch=batch, steps=10**6, straggler=Straggler.wait, preference=preference)
    waiting: dict[int, int] = {}  # ordinal -> version of its oldest token
    stored: dict[int, int] = {}
    num_issued = 0
    for what, number in events:
        under_way = sorted({**waiting, **stored})
        if what == "issue":
            version = max(contract.head - number % (eta + 2), 0)
            if contract.admits(version, contract.head, len(under_way)):
                contract.issue(num_issued, version)
                waiting[num_issued] = version
                num_issued += 1
        elif what == "store" and waiting:
            ordinal = sorted(waiting)[number % len(waiting)]
            stored[ordinal] = min(waiting.pop(ordinal) + number % 2, contract.head)
            contract.store(ordinal, stored[ordinal])
        elif what == "drop" and under_way:
            ordinal = under_way[number % len(under_way)]
            contract.drop(ordinal)
            waiting.pop(ordinal, None)
            stored.pop(ordinal, None)
        elif what == "take" and (chosen := contract.choose()) is not None:
            assert len(chosen) == batch
            assert all(contract.head - stored.pop(ordinal) <= eta for ordinal in chosen)
            assert contract.take(chosen) == []
        _assert_every_deadline_can_be_met(contract, [*waiting.values(), *stored.values()])
    for ordinal in sorted(waiting):
        contract.store(ordinal, waiting[ordinal])
    num_left = len(waiting) + len(stored)
    while num_left >= batch:  # once all have arrived, the learner never waits
        chosen = contract.choose()
        assert chosen is not None
        contract.take(chosen)
        num_left -= batch


def _assert_every_deadline_can_be_met(contract: StalenessContract, versions: list[int]) -> None:
    for k in range(contract.eta + 1):
        assert sum(version + contract.eta <= contract.head + k for version in versions) <= (k + 1) * contract.batch
