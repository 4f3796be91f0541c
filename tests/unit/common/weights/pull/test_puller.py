"""Pulls over real sockets on loopback: snapshots, deltas, several sources, cuts, relays."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic, thread_time

import msgspec
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.types import Rendezvous
from prolong.common.weights.pull import one_pull, origin
from prolong.common.weights.pull.protocol import PIECE_BYTES
from prolong.common.weights.pull.puller import Puller
from prolong.common.weights.pull.store import Superseded

from tests.support.pulls import Learner, Relay, make_client_keys, make_manifest, make_puller, make_store, soon, store_of
from tests.support.runs import free_port, wait_until

LARGE = make_manifest(8 << 20, 1)
COARSE = 1 << 16
# of a learner from which one message comes, and the next one twenty seconds later; no limit holds once its pace is 0
ONE_MESSAGE_MB_S = 0.05
SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy


def holds_some(puller: Puller) -> bool:
    """Whether a chunk has come."""
    return puller.store is not None and any(puller.store.held(index) for index in range(len(puller.store.layout.chunks)))


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


# --- cuts, newer versions, cancelling -----------------------------------------------------------------------------------


def test_after_a_cut_only_what_is_missing_is_fetched():
    slow = Learner(LARGE, max_mb_s=ONE_MESSAGE_MB_S, chunk_bytes=COARSE)
    with slow as learner, make_puller(chunk_bytes=COARSE) as puller, ThreadPoolExecutor() as threads:
        update = learner.step()
        pulling = threads.submit(puller.pull, update, soon())
        wait_until("some chunks came", lambda: holds_some(puller), SOON_S)
        puller.cancel()
        with pytest.raises(WeightsError):
            pulling.result(SOON_S)
        held = sum(store_of(puller).held(index) is not None for index in range(len(store_of(puller).layout.chunks)))
        assert 0 < held < len(store_of(puller).layout.chunks)
        learner.server._pace.rate = 0.0
        result = puller.pull(update, soon())
        assert learner.is_held_by(puller.store)
        assert result.num_chunks == len(store_of(puller).layout.chunks) - held


def test_a_puller_that_must_wait_for_its_limit_asks_a_new_learner_and_is_answered_once_it_may():
    """As when the learner is replaced: nothing can be granted with the first question on a new connection."""
    with Learner() as learner, make_puller(max_mb_s=0.1) as puller:
        update, started = learner.step(), monotonic()
        puller._pace.spend(100_000, started)
        puller.pull(update, soon())
        assert learner.is_held_by(puller.store)
        assert monotonic() - started > 0.7  # a second, less the quarter that may be caught up with


def test_a_server_that_comes_back_is_found_again(monkeypatch):
    monkeypatch.setattr(origin, "BACKOFF_S", 0.02)
    port = free_port()
    with Learner(port=port) as learner, make_puller() as puller, ThreadPoolExecutor() as threads:
        puller.pull(learner.step(), soon())
        update = learner.step()
        learner.server.close()
        pulling = threads.submit(puller.pull, update, soon())
        wait_until("the server is missed", lambda: puller.counters["weights/lost_sources"] > 0, SOON_S)
        learner.serve_at(port)
        pulling.result(SOON_S)
        assert learner.is_held_by(puller.store)


def test_a_version_that_the_learner_has_gone_past_comes_whole_to_one_that_holds_nothing():
    with Learner() as learner, make_puller() as puller:
        update, expected = learner.step(), [flat.clone() for flat in learner.buckets]
        for _ in range(3):
            learner.step()
        result = puller.pull(update, soon())
        assert result.num_full == result.num_chunks
        assert puller.store is not None
        assert puller.store.version == update.version
        assert all(map(torch.equal, puller.store.buckets, expected))


def test_the_learners_next_version_ends_a_pull_that_needs_the_one_before_and_what_came_is_kept():
    slow = Learner(LARGE, max_mb_s=ONE_MESSAGE_MB_S, chunk_bytes=COARSE)
    with slow as learner, make_puller(chunk_bytes=COARSE) as puller:
        update = learner.step()
        with ThreadPoolExecutor() as threads:
            pulling = threads.submit(puller.pull, update, soon())
            wait_until("some chunks came", lambda: holds_some(puller), SOON_S)
            learner.replace(4 << 20)
            later = learner.step()
            learner.server._pace.rate = 0.0
            with pytest.raises(Superseded) as raised:
                pulling.result(SOON_S)
        assert raised.value.newest == 1
        result = puller.pull(later, soon())
        assert learner.is_held_by(puller.store)
        assert 0 < result.num_full < result.num_chunks, "chunks that came of the version before need their deltas alone"


@pytest.mark.parametrize("ends", ["cancel", "close"])
def test_a_pull_ends_at_once_when_another_thread_says_so(ends):
    with Learner() as learner, make_puller() as puller:
        update = learner.step()
        learner.server.serve(make_store(learner.manifest))  # which has nothing yet
        with ThreadPoolExecutor() as threads:
            pulling = threads.submit(puller.pull, update, soon())
            wait_until("it is asked", lambda: any(reader.parked for reader in learner.server._turns), SOON_S)
            getattr(puller, ends)()
            with pytest.raises(WeightsError, match="cancelled"):
                pulling.result(SOON_S)


def test_who_waits_for_a_version_uses_no_processor_and_is_told_why_it_did_not_come():
    with Learner() as learner, make_puller(streams=4) as puller:
        update = learner.step()
        learner.server.serve(make_store(learner.manifest))  # which has nothing yet
        before, started = learner.server.cpu_s, thread_time()
        with pytest.raises(WeightsError, match="it has not sent that version yet"):
            puller.pull(update, soon(1.5))
        assert thread_time() - started < 0.3
        assert learner.server.cpu_s - before < 0.3


def test_an_address_that_is_none_for_pulling_is_refused():
    with Learner() as learner, make_puller() as puller:
        update = learner.step()
        for address in (b"", b"\x80", b"junk"):
            wrong = msgspec.structs.replace(update, rendezvous=Rendezvous(transport="pull", address=address))
            with pytest.raises(WeightsError, match="is none for pulling"):
                puller.pull(wrong, soon())


# --- relays -------------------------------------------------------------------------------------------------------------


def test_through_a_relay_five_pullers_cost_the_learner_one_model(monkeypatch):
    monkeypatch.setattr(one_pull, "STALLED_S", SOON_S)
    slow = Learner(LARGE, max_mb_s=ONE_MESSAGE_MB_S, chunk_bytes=COARSE)
    with slow as learner, Relay(chunk_bytes=COARSE) as relay, ExitStack() as stack:
        update = learner.step()
        pullers = [stack.enter_context(make_puller(chunk_bytes=COARSE)) for _ in range(5)]
        threads = stack.enter_context(ThreadPoolExecutor())
        filling = threads.submit(relay.puller.pull, update, soon())
        through = learner.update(relay.server.source, learner.server.source)
        pulling = [threads.submit(puller.pull, through, soon()) for puller in pullers]
        wait_until("the relay passes on what it has", lambda: relay.server.counters["weights/sent_bodies"] > 50, SOON_S)
        assert store_of(relay.puller).version == -1, "it has only a part itself"
        learner.server._pace.rate = 0.0
        results = [filling.result(SOON_S), *(pull.result(SOON_S) for pull in pulling)]
        assert all(learner.is_held_by(puller.store) for puller in (relay.puller, *pullers))
        assert {result.source for result in results[1:]} == {relay.server.source.endpoint}
        sent = learner.server.counters["weights/sent_bytes"]
        assert sent < 1.1 * (8 << 20), "the learner sent about one model"
        counters = relay.server.counters
        wait_until("all that the relay sent is counted", lambda: counters["weights/sent_bytes"] >= 5 * (8 << 20), SOON_S)


def test_a_relay_that_stays_behind_is_left_for_the_learner(monkeypatch):
    monkeypatch.setattr(one_pull, "STALLED_S", 0.3)
    with Learner() as learner, Relay() as relay, make_puller() as puller:
        update = learner.step()
        relay.puller.pull(update, soon())
        learner.step()
        puller.pull(learner.update(relay.server.source, learner.server.source), soon())
        assert learner.is_held_by(puller.store)
        assert relay.server.counters["weights/dropped_wants"] > 0 or puller.counters["weights/lost_sources"] == 1
