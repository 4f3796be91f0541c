from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.tickets.retries import Retries, Retry

from ..scene import prompt

EVENTS = st.lists(
    st.tuples(st.sampled_from(("add", "add", "take", "clear", "record", "restart")), st.integers(0, 9)), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_what_is_recorded_of_changes_is_what_waits(events: list[tuple[str, int]]) -> None:
    retries, simple = Retries(), list[Retry]()
    record: dict[int, Retry] = {}
    recorded: list[Retry] = []
    for what, index in events:
        if what == "add":
            retries.add(prompt(index), index % 3)
            simple.append((f"sum/{index}", index % 3))
        elif what == "take" and simple:
            taken, attempt = retries.take()
            assert (taken.uid, attempt) == simple.pop(0)
        elif what == "clear":
            retries.clear()
            simple.clear()
        elif what == "record":
            came, went = retries.take_changes()
            assert not record.keys() & came.keys()
            assert set(went) <= record.keys()
            record = {number: retry for number, retry in (record | came).items() if number not in went}
            recorded = list(simple)
            assert [record[number] for number in sorted(record)] == recorded
        elif what == "restart":
            retries, simple = Retries(), list(recorded)
            retries.restore(record, lambda uid: prompt(int(uid.removeprefix("sum/"))))
        assert [(waits.uid, attempt) for waits, attempt in retries] == simple
        assert len(retries) == len(simple)


def test_a_prompt_that_the_files_have_no_more_is_left_out_and_its_record_dropped() -> None:
    retries = Retries()
    retries.restore({4: ("sum/1", 2), 7: ("gone", 1)}, lambda uid: prompt(1) if uid == "sum/1" else None)
    assert [(waits.uid, attempt) for waits, attempt in retries] == [("sum/1", 2)]
    assert retries.take_changes() == ({}, [7])
    retries.add(prompt(3), 0)
    assert retries.take_changes() == ({8: ("sum/3", 0)}, [])
