"""The server over real sockets: nobody is held up by a puller that does not read, limits hold, and everything is counted."""

import threading

import pytest
import zmq
from prolong.common.errors import AddressInUse
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import Decoder, encode
from prolong.common.weights.pull import readers, server
from prolong.common.weights.pull.pace import Pace
from prolong.common.weights.pull.protocol import (
    MAX_WANTED,
    PIECE_BYTES,
    CatalogWanted,
    ChunksWanted,
    FromServer,
    Granted,
    Later,
    Pieces,
    PullMessage,
    Refusal,
)
from prolong.common.weights.pull.server import FRAMES_QUEUED, WeightServer

from tests.support.pulls import Learner, make_manifest, make_puller, make_store, soon
from tests.support.runs import wait_until

SOON_S = 60.0  # what is waited for happens at once, unless the machine is busy
DECODER = Decoder[FromServer](FromServer, 1 << 20)


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def learner():
    with Learner() as learner:
        learner.step()
        yield learner


def dealer_to(context: zmq.Context, learner: Learner) -> zmq.Socket:
    return connect_dealer(context, learner.server.source.endpoint, 2 * PIECE_BYTES, frames_ahead=2)


def hear(dealer: zmq.Socket) -> PullMessage:
    assert dealer.poll(int(1000 * SOON_S)), "nothing came"
    return DECODER.decode(dealer.recv_multipart()[0])


def wanted(learner: Learner, indices: list[int], *, granted: int, have: int = -1, version: int = 0) -> bytes:
    session = learner.store.session
    return encode(ChunksWanted(request=1, version=version, session=session, have=have, indices=indices, granted=granted))


def test_no_more_is_sent_than_was_granted_and_one_piece(context):
    with Learner(make_manifest(8 << 20, 1), chunk_bytes=4 << 20) as learner, dealer_to(context, learner) as dealer:
        learner.step()
        dealer.send(wanted(learner, [0, 1], granted=1))
        assert isinstance(hear(dealer), Pieces)
        assert not dealer.poll(100)
        dealer.send(encode(Granted(request=1, granted=2 * PIECE_BYTES)))
        assert isinstance(hear(dealer), Pieces)
        assert not dealer.poll(100)
        sent = learner.server.counters
        wait_until("both are counted", lambda: sent["weights/sent_bytes"] == 2 * PIECE_BYTES, SOON_S)


def test_a_puller_that_does_not_read_costs_a_few_pieces_and_holds_up_nobody(context):
    manifest = make_manifest(64 << 20, 1)
    with Learner(manifest, chunk_bytes=4 << 20) as learner, dealer_to(context, learner) as deaf:
        update = learner.step()
        deaf.send(wanted(learner, list(range(16)), granted=1 << 40))
        with make_puller(chunk_bytes=4 << 20) as puller:
            for _ in range(2):
                puller.pull(update, soon())
                assert learner.is_held_by(puller.store)
                update = learner.step()
        sent = learner.server.counters["weights/sent_bytes"] - puller.counters["weights/pulled_bytes"]
        assert sent < (FRAMES_QUEUED + 24) * PIECE_BYTES, "of 64 MB: what ZeroMQ and the kernel queue"


def test_who_pulls_together_is_served_in_turn(monkeypatch):
    manifest = make_manifest(4 << 20, 1)
    with Learner(manifest, chunk_bytes=1 << 20, max_mb_s=0.05) as learner, zmq.Context() as context:
        learner.step()
        server, served, send = learner.server, list[bytes](), learner.server._send
        monkeypatch.setattr(server, "_send", lambda to, message: (served.append(to), send(to, message))[1])
        with dealer_to(context, learner) as first, dealer_to(context, learner) as second:
            first.send(wanted(learner, [0, 1, 2, 3], granted=1 << 30))
            heard = [hear(first)]
            # the first one's next message is due in twenty seconds
            second.send(wanted(learner, [0], granted=1 << 30))
            wait_until("both wait", lambda: sum(reader.is_pending for reader in server._turns) == 2, SOON_S)
            server._pace.rate = 0.0
            heard += [hear(second), *(hear(first) for _ in range(3))]
        assert all(isinstance(message, Pieces) for message in heard)
        assert served.count(served[0]) == 4
        assert served[-1] == served[0], "the second one waited for all of the first's"


def test_what_is_not_there_yet_is_answered_when_it_is(context, learner):
    with dealer_to(context, learner) as dealer:
        dealer.send(wanted(learner, [0], granted=1 << 30, version=1))
        assert isinstance(hear(dealer), Later), "a sign of life"
        learner.step()
        while not isinstance(heard := hear(dealer), Pieces):
            assert isinstance(heard, Later)
        assert [piece.index for piece in heard.pieces] == [0]


def test_what_never_comes_is_refused_after_a_while(context, learner, monkeypatch):
    monkeypatch.setattr(server, "PARKED_S", 0.2)
    monkeypatch.setattr(server, "LATER_S", 0.1)
    with dealer_to(context, learner) as dealer:
        dealer.send(wanted(learner, [0], granted=1 << 30, version=1))
        while isinstance(heard := hear(dealer), Later):
            pass
        assert isinstance(heard, Refusal)
        assert learner.server.counters["weights/expired_wants"] == 1


def test_a_chunk_that_there_is_not_is_refused(context, learner):
    with dealer_to(context, learner) as dealer:
        dealer.send(wanted(learner, [0, 10_000], granted=1 << 30))
        assert isinstance(hear(dealer), Pieces | Refusal)
        wait_until("it is counted", lambda: learner.server.counters["weights/refused_requests"] == 1, SOON_S)


def test_more_than_a_thousand_chunks_at_once_are_refused(context, learner):
    with dealer_to(context, learner) as dealer:
        for _ in range(2):
            dealer.send(wanted(learner, [0] * MAX_WANTED, granted=0))
        assert isinstance(hear(dealer), Refusal)
        assert learner.server.counters["weights/dropped_wants"] == 2 * MAX_WANTED


def test_a_later_request_replaces_an_earlier_one(context, learner):
    with dealer_to(context, learner) as dealer:
        dealer.send(wanted(learner, [0], granted=1 << 30, version=7))
        dealer.send(encode(CatalogWanted(request=2, version=0, granted=1 << 30)))
        heard = hear(dealer)
        assert isinstance(heard, Pieces)
        assert heard.request == 2
        assert learner.server.counters["weights/dropped_wants"] == 1


def test_too_many_pullers_are_refused_and_idle_ones_make_room(context, learner, monkeypatch):
    monkeypatch.setattr(server, "MAX_READERS", 2)
    with dealer_to(context, learner) as first, dealer_to(context, learner) as second, dealer_to(context, learner) as third:
        for dealer in (first, second):
            dealer.send(wanted(learner, [0], granted=0))
            dealer.send(encode(Granted(request=1, granted=0)))
        wait_until("both are known", lambda: len(learner.server._readers) == 2, SOON_S)
        third.send(wanted(learner, [0], granted=1 << 30))
        assert isinstance(hear(third), Refusal)
        first.send(encode(Granted(request=1, granted=1 << 30)))
        assert isinstance(hear(first), Pieces)
        third.send(wanted(learner, [0], granted=1 << 30))
        assert isinstance(hear(third), Pieces)


def test_pullers_that_are_gone_are_forgotten(context, learner, monkeypatch):
    monkeypatch.setattr(server, "LATER_S", 0.05)
    with dealer_to(context, learner) as dealer:
        dealer.send(wanted(learner, [0], granted=1 << 30, version=7))
        hear(dealer)
    wait_until("it is missed", lambda: learner.server.counters["weights/lost_pullers"] == 1, SOON_S)
    wait_until("it is forgotten", lambda: not learner.server._readers, SOON_S)


def test_a_port_in_use_is_named(learner):
    port = int(learner.server.source.endpoint.rpartition(":")[2])
    with pytest.raises(AddressInUse, match=r"weights\.host and weights\.port = tcp://127\.0\.0\.1:\d+: in use"):
        WeightServer("127.0.0.1", port, None, Pace(0.0))


def test_a_server_that_never_started_closes_and_one_that_runs_leaves_no_thread():
    WeightServer("localhost", 0, None, Pace(0.0)).close()
    running = WeightServer("127.0.0.1", 0, None, Pace(0.0))
    running.start()
    running.close()
    running.close()
    assert "weight-server" not in {thread.name for thread in threading.enumerate()}


def test_keys_that_are_none_are_counted_and_not_admitted(learner):
    learner.server.admit(["short", "\u00e4" * 40, "x" * 41])
    assert learner.server.counters["weights/malformed_keys"] == 3


def test_small_bodies_share_a_message(learner):
    reader = readers.Reader(b"r", 0.0)
    asked = ChunksWanted(request=1, version=0, session=learner.store.session, have=-1, indices=[0, 1, 2, 3], granted=1)
    reader.want(asked)
    bundle = reader.compose(learner.store)
    assert bundle is not None
    heard = DECODER.decode(bundle.frames[0])
    assert isinstance(heard, Pieces)
    assert [piece.index for piece in heard.pieces] == [0, 1, 2, 3]
    assert (bundle.num_bodies, bundle.num_bytes) == (4, len(bundle.frames[1]))
    assert not reader.is_pending


def test_without_a_store_everything_waits():
    reader = readers.Reader(b"r", 0.0)
    reader.want(CatalogWanted(request=1, version=0, granted=1))
    assert reader.compose(None) is None
    assert len(reader.parked) == 1
    assert not readers.may_have(make_store(make_manifest()), next(iter(reader.parked)))
