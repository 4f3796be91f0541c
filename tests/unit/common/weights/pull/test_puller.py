"""Pulls over real sockets on loopback: snapshots, deltas, several sources, cuts, cancels."""

import pytest
from prolong.common.weights.pull.protocol import PIECE_BYTES

from tests.support.pulls import Learner, make_client_keys, make_manifest, make_puller, soon


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


def test_whole_pieces_fit_when_they_are_encrypted():
    keys, chunk_bytes = make_client_keys(), 2 * PIECE_BYTES
    learner = Learner(make_manifest(chunk_bytes, 1), chunk_bytes=chunk_bytes, keys=make_client_keys())
    with learner, make_puller(keys, chunk_bytes=chunk_bytes) as puller:
        learner.server.admit([keys.public.decode()])
        assert puller.pull(learner.step(), soon()).num_bytes == chunk_bytes
        assert learner.is_held_by(puller.store)
        assert not puller.counters["weights/lost_sources"]
