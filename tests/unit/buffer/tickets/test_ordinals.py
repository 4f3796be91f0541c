from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.buffer.tickets.ordinals import Ordinals


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=100))
def test_it_is_a_set_that_knows_the_order_of_arrival_and_the_smallest(events: list[tuple[bool, int]]) -> None:
    ordinals, simple = Ordinals(), {}
    for comes, ordinal in events:
        if comes:
            ordinals.add(ordinal)
            simple.setdefault(ordinal)
        elif ordinal in simple:
            ordinals.discard(ordinal)
            del simple[ordinal]
        assert list(ordinals) == list(simple)
        assert len(ordinals) == len(simple)
        assert (ordinal in ordinals) == (ordinal in simple)
        for count in (0, 1, 3, 40):
            assert ordinals.first(count) == sorted(simple)[:count]


def test_a_thousand_that_went_from_the_middle_are_not_looked_at_again_and_again() -> None:
    ordinals = Ordinals()
    drawn = list(range(4000))
    random.Random(0).shuffle(drawn)
    for ordinal in drawn:
        ordinals.add(ordinal)
    for ordinal in range(1, 3999):
        ordinals.discard(ordinal)
    kept = len(ordinals._heap) + len(ordinals._front) + len(ordinals._discarded)
    assert kept <= 6, "a heap of what is gone would grow for ever"
    assert ordinals.first(2) == [0, 3999]
