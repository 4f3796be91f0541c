"""Which deltas a ring keeps, and the chains that it finds."""

from __future__ import annotations

from prolong.common.weights.pull.ring import DELTAS_KEPT, DeltaRing, Step


def ring_of(*steps: Step, size: int = 100) -> DeltaRing:
    ring = DeltaRing([size])
    for step in steps:
        ring.keep(0, step)
    return ring


def test_a_chain_goes_from_what_is_held_to_what_is_wanted_over_versions_that_were_skipped() -> None:
    ring = ring_of(Step(1, 2, b"a"), Step(2, 5, b"b"), Step(5, 6, b""), Step(6, 7, b"c"))
    assert ring.chain(0, 1, 7) == [(2, b"a"), (5, b"b"), (6, b""), (7, b"c")]
    assert ring.chain(0, 2, 6) == [(5, b"b"), (6, b"")]
    for have, target in ((None, 7), (0, 7), (3, 7), (1, 4), (7, 7), (7, 1), (1, 8)):
        assert ring.chain(0, have, target) is None


def test_the_oldest_go_when_all_are_as_large_as_the_chunk_or_too_many() -> None:
    ring = ring_of(*(Step(version, version + 1, bytes(30)) for version in range(5)))
    assert [step.base for step in ring.steps[0]] == [2, 3, 4]
    ring = ring_of(*(Step(version, version + 1, b"") for version in range(100)))
    assert len(ring.steps[0]) == DELTAS_KEPT
    assert ring.chain(0, 100 - DELTAS_KEPT, 100) is not None


def test_a_delta_that_was_made_twice_is_found_once() -> None:
    """As when a learner failed between encoding a version and reaching it, and began again."""
    ring = ring_of(Step(1, 2, b"a"), Step(2, 3, b"b"), Step(2, 3, b"c"))
    assert ring.chain(0, 1, 3) == [(2, b"a"), (3, b"c")]


def test_nothing_leads_to_a_chunk_that_came_in_full() -> None:
    ring = ring_of(Step(1, 2, b"a"))
    ring.forget(0)
    assert ring.chain(0, 1, 2) is None
    ring.keep(0, Step(2, 3, b"b"))
    ring.forget_all()
    assert ring.chain(0, 2, 3) is None


def test_a_chunk_whose_deltas_nobody_wants_keeps_none() -> None:
    assert not ring_of(Step(1, 2, b"a"), Step(2, 3, b""), size=0).steps[0]
