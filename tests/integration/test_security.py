"""The real buffer process behind keys: the right ones work, all others get nothing and are told, nobody hangs."""

import os
import random
import shutil
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import pytest
import zmq
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.observer import request_reset, request_status
from prolong.buffer.main import main
from prolong.common.config.sections import Config
from prolong.common.errors import BufferUnreachable, ConfigError
from prolong.common.messages import (
    BatchReady,
    GroupAck,
    GroupResult,
    PublishPlan,
    PublishResult,
    Refused,
    Role,
    StatusRequest,
    TakeBatch,
    Tickets,
    UpdateWeights,
)
from prolong.common.transport.keys import load_client_keys, make_keys
from prolong.common.transport.quarantine import STRIKES
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import encode
from prolong.launch.status import run_status

from tests.support.buffer_process import BufferProcess, answer, apply, hello, make_client, make_config, publish
from tests.support.runs import wait_until


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", ["gpu-1"])
    return tmp_path / "keys"


@pytest.fixture
def cfg(tmp_path: Path, keys: Path) -> Config:
    return make_config(tmp_path, address="tcp://0.0.0.0:0", keys=str(keys))


@pytest.fixture
def buffer(cfg: Config):
    with BufferProcess(cfg) as process:
        process.address = process.address.replace("0.0.0.0", "127.0.0.1")
        yield process


def mixed(folder: Path, client: Path, server: Path) -> str:
    """A client's folder with the secret of one and the buffer of another."""
    folder.mkdir()
    shutil.copy(client / "client.key", folder)
    shutil.copy(server / "server.pub", folder)
    return str(folder)


def attempt(cfg: Config, address: str, keys: str, timeout_s: float) -> tuple[str, float]:
    """What a client that must fail is told, and after how long."""
    client = BufferClient(address, hello(cfg, Role.actor, "stranger"), max_bytes=1 << 20, keys=keys)
    started = monotonic()
    with pytest.raises(BufferUnreachable) as raised:
        client.connect(timeout_s)
    return str(raised.value), monotonic() - started


def round_trip(cfg: Config, address: str) -> None:
    """Weights out, tickets out, groups in, a batch out."""
    actor, learner = make_client(cfg, address, Role.actor, "actor-0"), make_client(cfg, address, Role.learner, "learner")
    work, acks = actor.inbox(Tickets, UpdateWeights), actor.inbox(GroupAck)
    weights, batches = learner.inbox(PublishPlan, PublishResult), learner.inbox(BatchReady)
    with actor, learner:
        actor.connect(60.0)
        generation = learner.connect(60.0).generation
        publishing = threading.Thread(target=publish, args=(learner, weights, generation, 0))
        publishing.start()
        update = work.take(60.0)
        assert isinstance(update, UpdateWeights)
        apply(actor, update)
        publishing.join(60.0)
        learner.send(TakeBatch(generation=generation, version=0))
        num_answered = 0
        while num_answered < cfg.buffer.batch_groups:
            offered = work.take(60.0)
            assert isinstance(offered, Tickets)
            for ticket in offered.tickets:
                actor.send(GroupResult(group=answer(ticket, "actor-0")))
                assert acks.take(60.0).accepted
                num_answered += 1
        assert len(batches.take(60.0).batch.groups) == cfg.buffer.batch_groups


def test_the_right_keys_work_from_greeting_to_batch_and_for_status_and_reset(cfg, buffer, keys):
    round_trip(cfg, buffer.address)
    assert request_status(buffer.address, 60.0, keys=str(keys / "hosts" / "gpu-1")).balanced
    assert not isinstance(request_reset(buffer.address, 60.0, keys=str(keys)), Refused)
    assert run_status(buffer.paths)["state"] == "live"  # it finds the keys by the note


def test_who_has_no_right_key_gets_nothing_and_is_told_within_its_deadline(cfg, buffer, keys, tmp_path):
    make_keys(tmp_path / "others", [])
    unknown = mixed(tmp_path / "unknown", client=tmp_path / "others", server=keys)
    wrong_server = mixed(tmp_path / "wrong", client=keys, server=tmp_path / "others")
    for _ in range(10):
        # at once, not at its deadline
        told, waited_s = attempt(cfg, buffer.address, unknown, 200.0)
        assert "does not know the key; the keys may differ" in told
        assert waited_s < 60.0
    for folder in (wrong_server, ""):
        told, waited_s = attempt(cfg, buffer.address, folder, 1.0)
        assert "the handshake fails: the keys may differ" in told
        assert 1.0 <= waited_s < 30.0
    for folder, deadline_s in ((unknown, 3.0), (wrong_server, 0.3), ("", 0.3)):
        with pytest.raises(BufferUnreachable):
            request_status(buffer.address, deadline_s, keys=folder)
    status = request_status(buffer.address, 60.0, keys=str(keys))
    assert status.peers == {}
    assert status.counters["buffer/refused_keys"] == 11
    assert "buffer/rejected_frames" not in status.counters
    round_trip(cfg, buffer.address)


def test_a_hundred_who_may_not_enter_do_not_while_who_may_is_served(cfg, buffer, keys, tmp_path):
    make_keys(tmp_path / "others", [])
    unknown = mixed(tmp_path / "unknown", client=tmp_path / "others", server=keys)
    wrong_server = mixed(tmp_path / "wrong", client=keys, server=tmp_path / "others")
    with zmq.Context() as context, ExitStack() as stack:
        dealers = []
        for number in range(100):
            theirs = load_client_keys((unknown, wrong_server, "")[number % 3])
            dealer = connect_dealer(context, buffer.address, 1 << 20, b"stranger %d" % number, keys=theirs)
            stack.callback(dealer.close, linger=0)
            # a dealer that was refused already has nobody to send to, and would wait for ever
            with suppress(zmq.Again):
                dealer.send(encode(hello(cfg, Role.actor, f"stranger {number}")), zmq.NOBLOCK)
                dealer.send(encode(StatusRequest()), zmq.NOBLOCK)
            dealers.append(dealer)
        started = monotonic()
        while (status := request_status(buffer.address, 60.0, keys=str(keys))).counters.get("buffer/refused_keys", 0) < 34:
            assert monotonic() - started < 90.0
        round_trip(cfg, buffer.address)
        assert not any(dealer.poll(0) for dealer in dealers)
    status = request_status(buffer.address, 60.0, keys=str(keys))
    assert set(status.peers) <= {"actor-0", "learner"}
    assert "buffer/rejected_frames" not in status.counters


def garbage(rng: random.Random) -> bytes:
    """What something that is no client of ours may say on a TCP connection; empty for a half-open one."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)  # of ZMTP, as a client without keys begins
    return rng.choice(
        [b"", rng.randbytes(rng.randint(1, 5000)), greeting[: rng.randint(1, 63)], b"GET / HTTP/1.1\r\n\r\n", b"\0" * 900]
    )


@pytest.mark.parametrize("keyed", [True, False])
def test_five_hundred_garbage_connections_are_harmless_and_leave_nothing(tmp_path, keys, keyed):
    folder = str(keys) if keyed else ""
    cfg = make_config(tmp_path, keys=folder)
    with BufferProcess(cfg) as buffer, ExitStack() as stack:
        descriptors = Path(f"/proc/{buffer.process.pid}/fd")
        request_status(buffer.address, 60.0, keys=folder)
        before, rng = len(os.listdir(descriptors)), random.Random(1)
        port = int(buffer.address.rpartition(":")[2])
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60.0)) for _ in range(500)]
        for connection in connections:
            connection.setblocking(False)
            try:
                connection.send(garbage(rng))
            except OSError:
                continue  # the buffer has had enough of it already
        wait_until("they are all accepted", lambda: len(os.listdir(descriptors)) > before + 100, 60.0)
        for _ in range(20):
            status = request_status(buffer.address, 60.0, keys=folder)
            # without keys, bytes may happen to be frames of ZeroMQ's first protocol: malformed ones
            assert {peer["state"] for peer in status.peers.values()} <= (set() if keyed else {"quarantined"})
        for connection in connections:
            connection.close()
        wait_until("their descriptors are free", lambda: len(os.listdir(descriptors)) <= before + 2, 60.0)
        round_trip(cfg, buffer.address)
        status = request_status(buffer.address, 60.0, keys=folder)
        assert status.balanced
        assert not keyed or "buffer/rejected_frames" not in status.counters


def test_a_slow_connection_holds_up_nobody(tmp_path):
    """A greeting that comes byte by byte, and a frame that is announced and never comes."""
    cfg = make_config(tmp_path)
    with BufferProcess(cfg) as buffer, ExitStack() as stack:
        port = int(buffer.address.rpartition(":")[2])
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
        ready = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
        announced = b"\x02" + (3 << 20).to_bytes(8, "big")  # three megabytes, of which none comes
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60.0)) for _ in range(50)]
        for connection in slow[25:]:
            connection.sendall(greeting + ready + announced)
        for byte in greeting:
            for connection in slow[:25]:
                connection.sendall(bytes([byte]))
            assert request_status(buffer.address, 60.0).peers == {}
        round_trip(cfg, buffer.address)


def test_a_key_counts_from_when_it_is_added_until_it_is_taken_away(cfg, buffer, keys):
    make_keys(keys, ["late"])
    late = str(keys / "hosts" / "late")
    assert request_status(buffer.address, 60.0, keys=late).balanced
    (keys / "allowed" / "late.pub").unlink()
    with pytest.raises(BufferUnreachable):
        request_status(buffer.address, 0.3, keys=late)
    assert request_status(buffer.address, 60.0, keys=str(keys)).balanced


def test_beyond_loopback_neither_binds_nor_connects_without_keys(tmp_path):
    with pytest.raises(ConfigError, match=r"make them with `prolong keys keys --clients 1`"):
        main(make_config(tmp_path, address="tcp://0.0.0.0:0"))
    with pytest.raises(ConfigError, match=r"`prolong keys"):
        main(make_config(tmp_path, address="tcp://0.0.0.0:0", keys=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"or keys: make them"):
        request_status("tcp://198.51.100.1:5710", 0.2)


def test_a_flood_of_malformed_frames_is_quarantined_and_the_others_are_served(tmp_path):
    cfg = make_config(tmp_path)
    with BufferProcess(cfg) as buffer, zmq.Context() as context:
        noisy = connect_dealer(context, buffer.address, 1 << 20, b"noisy")
        noisy.send(encode(StatusRequest()))
        assert noisy.poll(60_000)
        noisy.recv()
        for _ in range(10 * STRIKES):
            noisy.send(b"nonsense")
        noisy.send(encode(StatusRequest()))
        deadline = monotonic() + 90.0
        while (status := request_status(buffer.address, 60.0)).counters.get("buffer/rejected_frames", 0) <= 10 * STRIKES:
            assert monotonic() < deadline
        assert status.counters["buffer/quarantines"] == 1
        assert status.peers["sender noisy"]["state"] == "quarantined"
        assert not noisy.poll(200)
        round_trip(cfg, buffer.address)
        noisy.close(linger=0)
