from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from prolong.buffer.serving.garbage import SEARCH_RARELY, rare_searches, survivors_set_aside


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_full_collection_looks_at_what_came_since_the_last_one() -> None:
    with survivors_set_aside():
        gc.collect()
        assert len(gc.get_objects()) < 1000, "whatever the process held before"
        kept = [[index] for index in range(5000)]
        assert len(gc.get_objects()) > 5000
        gc.collect()
        assert len(gc.get_objects()) < 1000
        assert kept[17] == [17]
    assert len(gc.get_objects()) > 5000


def test_cycles_that_die_young_are_freed_and_others_by_their_references() -> None:
    class Node:
        def __init__(self) -> None:
            self.me: object = None

        def __del__(self) -> None:
            died.append(1)

    died: list[int] = []
    with survivors_set_aside():
        one = Node()
        one.me = one
        other = Node()
        del one
        gc.collect()
        assert died == [1]
        del other
        assert died == [1, 1]


def test_searches_are_rare_meanwhile_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with rare_searches():
        assert gc.get_threshold() == SEARCH_RARELY
    assert gc.get_threshold() == before
