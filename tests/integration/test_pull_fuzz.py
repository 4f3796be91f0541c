"""Fuzzed frames at the socket that serves weights, and from it: everything is counted, honest pullers are served meanwhile."""

import os

import pytest
import zmq
from prolong.common.errors import WeightsError
from prolong.common.transport.quarantine import STRIKES
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import encode
from prolong.common.weights.pull import one_pull, origin, window
from prolong.common.weights.pull.protocol import (
    CATALOG,
    MAX_HEADER_BYTES,
    CatalogWanted,
    ChunksWanted,
    FromPuller,
    FromServer,
    Gone,
    Granted,
    Later,
    Piece,
    Pieces,
    Refusal,
)

from tests.support.attack import Memory
from tests.support.fuzzing import Fuzzer
from tests.support.hostile_source import HostileSource, pieces
from tests.support.pulls import CHUNK_BYTES, Learner, make_puller, soon, store_of
from tests.support.runs import wait_until

SCALE = 10 if os.environ.get("PROLONG_SOAK") else 1
MALFORMED = 4_000 * SCALE
ABSURD = 2_000 * SCALE
SESSION = bytes(16)


@pytest.fixture
def learner():
    with Learner() as learner:
        learner.step()
        yield learner


def requests(learner):
    return [
        CatalogWanted(request=1, version=0, granted=1 << 20),
        ChunksWanted(request=1, version=0, session=learner.store.session, have=-1, indices=[0, 1, 2], granted=1 << 20),
        ChunksWanted(request=1, version=0, session=learner.store.session, have=0, indices=[3], granted=0),
        Granted(request=1, granted=1 << 21),
    ]


def send_from_many(learner, frames, per_sender):
    """Send messages on as many connections as it takes, and wait until they left."""
    with zmq.Context() as context:
        for start in range(0, len(frames), per_sender):
            with connect_dealer(context, learner.server.source.endpoint, 1 << 20) as dealer:
                for frame in frames[start : start + per_sender]:
                    dealer.send_multipart(frame)
                dealer.linger = 60_000


def assert_serves(learner):
    with make_puller() as puller:
        puller.pull(learner.step(), soon())
        assert learner.is_held_by(puller.store)


def test_malformed_requests_are_all_counted_while_others_are_served(learner):
    fuzzer = Fuzzer(1, requests(learner), MAX_HEADER_BYTES, FromPuller)
    memory = Memory(os.getpid())
    counters = learner.server.counters
    for number in range(1, 5):
        send_from_many(learner, [fuzzer.malformed() for _ in range(MALFORMED // 4)], STRIKES - 1)
        assert_serves(learner)
        goal = number * MALFORMED // 4
        wait_until("they are counted", lambda goal=goal: counters["weights/rejected_frames"] >= goal, 90.0)
    assert counters["weights/rejected_frames"] == MALFORMED
    assert counters["weights/quarantines"] == 0
    assert memory.growth() < 128 << 20


def test_absurd_requests_harm_nobody(learner):
    fuzzer = Fuzzer(2, requests(learner), MAX_HEADER_BYTES, FromPuller)
    for _ in range(4):
        send_from_many(learner, [[fuzzer.absurd()] for _ in range(ABSURD // 4)], 50)
        assert_serves(learner)
    assert learner.server.counters["weights/rejected_frames"] == 0, "absurd frames are well-formed"
    assert learner.server.counters["weights/refused_requests"] > 0


def test_a_sender_of_malformed_requests_is_ignored_and_others_are_not(learner):
    with zmq.Context() as context, connect_dealer(context, learner.server.source.endpoint, 1 << 20) as dealer:
        for _ in range(2 * STRIKES):
            dealer.send(b"garbage")
        counters = learner.server.counters
        wait_until("it is counted", lambda: counters["weights/rejected_frames"] == 2 * STRIKES, 60.0)
        assert counters["weights/quarantines"] == 1
        dealer.send(encode(CatalogWanted(request=1, version=0, granted=1 << 20)))
        assert_serves(learner)
        assert not dealer.poll(0)


@pytest.mark.parametrize("ways", ["malformed", "absurd"])
def test_fuzzed_answers_end_a_visit_and_nothing_else(learner, ways, monkeypatch):
    monkeypatch.setattr(window, "FIRST_SILENCE_S", 0.2)
    monkeypatch.setattr(one_pull, "STALLED_S", 0.2)
    monkeypatch.setattr(origin, "BACKOFF_S", 0.001)
    monkeypatch.setattr(origin, "MAX_BACKOFF_S", 0.002)
    step = [(0, CHUNK_BYTES)]
    whole = Piece(index=0, offset=0, num_bytes=CHUNK_BYTES, total=CHUNK_BYTES, steps=None)
    samples = [
        Pieces(request=1, pieces=[whole]),
        Pieces(request=1, pieces=[Piece(index=1, offset=0, num_bytes=16, total=16, steps=step)] * 2),
        Later(request=1),
        Gone(request=1, newest=3),
        Refusal(request=1, reason="no"),
    ]
    fuzzer = Fuzzer(3, samples, MAX_HEADER_BYTES, FromServer)

    def behave(asked, say):
        if isinstance(asked, CatalogWanted):
            content = learner.store.catalog(0)
            piece = Piece(index=CATALOG, offset=0, num_bytes=len(content), total=len(content), steps=None)
            say(*pieces(asked, (piece, content)))
        elif ways == "malformed":
            say(*fuzzer.malformed())
        else:
            say(fuzzer.absurd(), fuzzer.rng.randbytes(fuzzer.rng.choice([0, 16, CHUNK_BYTES])))

    update = learner.update(learner.server.source)
    with HostileSource(behave) as hostile, make_puller() as puller:
        memory = Memory(os.getpid())
        for _ in range(3 * SCALE):
            with pytest.raises(WeightsError):
                puller.pull(learner.update(hostile.source), soon(1.5))
        assert hostile.num_asked > 4
        assert store_of(puller).version == -1
        puller.pull(update, soon())
        assert learner.is_held_by(puller.store)
        assert memory.growth() < 128 << 20


def test_a_header_over_the_limit_is_not_read(learner):
    with zmq.Context() as context, connect_dealer(context, learner.server.source.endpoint, 1 << 20) as dealer:
        dealer.send(bytes(MAX_HEADER_BYTES + 1))
        assert_serves(learner)
        assert learner.server.counters["weights/rejected_frames"] == 0


def test_sessions_of_another_learner_are_superseded_at_the_learner(learner):
    with zmq.Context() as context, connect_dealer(context, learner.server.source.endpoint, 1 << 20) as dealer:
        dealer.send(encode(ChunksWanted(request=1, version=0, session=SESSION, have=-1, indices=[0], granted=1 << 20)))
        assert dealer.poll(60_000)
        assert dealer.recv() == encode(Gone(request=1, newest=0))
