"""Pulls over real sockets on loopback: snapshots, deltas, several sources, cuts, cancels."""

import pytest

from tests.support.pulls import Learner, make_puller, soon


def test_a_newcomer_gets_a_snapshot_and_then_deltas():
    with Learner() as learner, make_puller() as puller:
        first = puller.pull(learner.step(), soon())
        assert learner.is_held_by(puller.store)
        assert (first.num_full, first.num_repeated) == (first.num_chunks, 0)
        second = puller.pull(learner.step(), soon())
        assert learner.is_held_by(puller.store)
        assert second.num_full == 0
        assert 0 < second.num_bytes < first.num_bytes / 10
        third = puller.pull(learner.step(share=0.0), soon())
        assert learner.is_held_by(puller.store)
        assert (third.num_chunks, third.num_bytes) == (0, 0)


@pytest.mark.parametrize("streams", [2, 5])
def test_several_streams_bring_the_same(streams):
    with Learner() as learner, make_puller(streams=streams) as puller:
        for _ in range(3):
            puller.pull(learner.step(), soon())
            assert learner.is_held_by(puller.store)
