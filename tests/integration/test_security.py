"""The real buffer process behind keys: the right ones work, all others get nothing and are told, nobody hangs."""

import shutil
import threading
from pathlib import Path
from time import monotonic

import pytest
import zmq
from buffer_process import BufferProcess, answer, apply, hello, make_client, make_config, publish
from prolong.buffer.client import BufferClient, request_reset, request_status
from prolong.buffer.main import main
from prolong.buffer.quarantine import STRIKES
from prolong.common.config import Config
from prolong.common.errors import BufferUnreachable, ConfigError
from prolong.common.keys import make_keys
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
from prolong.common.sockets import connect_dealer
from prolong.common.wire import encode
from prolong.launch.status import run_status


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
        actor.connect(5.0)
        generation = learner.connect(5.0).generation
        publishing = threading.Thread(target=publish, args=(learner, weights, generation, 0))
        publishing.start()
        apply(actor, work.take(5.0))
        publishing.join(5.0)
        learner.send(TakeBatch(generation=generation, version=0))
        num_answered = 0
        while num_answered < cfg.buffer.batch_groups:
            for ticket in work.take(5.0).tickets:
                actor.send(GroupResult(group=answer(ticket, "actor-0")))
                assert acks.take(5.0).accepted
                num_answered += 1
        assert len(batches.take(5.0).batch.groups) == cfg.buffer.batch_groups


def test_the_right_keys_work_from_greeting_to_batch_and_for_status_and_reset(cfg, buffer, keys):
    round_trip(cfg, buffer.address)
    assert request_status(buffer.address, 5.0, keys=str(keys / "hosts" / "gpu-1")).balanced
    assert not isinstance(request_reset(buffer.address, 5.0, keys=str(keys)), Refused)
    assert run_status(buffer.paths)["state"] == "live"  # it finds the keys by the note


def test_who_has_no_right_key_gets_nothing_and_is_told_within_its_deadline(cfg, buffer, keys, tmp_path):
    make_keys(tmp_path / "others", [])
    unknown = mixed(tmp_path / "unknown", client=tmp_path / "others", server=keys)
    wrong_server = mixed(tmp_path / "wrong", client=keys, server=tmp_path / "others")
    for _ in range(10):
        told, waited_s = attempt(cfg, buffer.address, unknown, 30.0)
        assert "does not know the key; the keys may differ" in told
        assert waited_s < 10.0
    for folder in (wrong_server, ""):
        told, waited_s = attempt(cfg, buffer.address, folder, 1.0)
        assert "the handshake fails: the keys may differ" in told
        assert 1.0 <= waited_s < 6.0
    for folder in (unknown, wrong_server, ""):
        with pytest.raises(BufferUnreachable):
            request_status(buffer.address, 0.3, keys=folder)
    status = request_status(buffer.address, 5.0, keys=str(keys))
    assert status.peers == {}
    assert status.counters["buffer/refused_keys"] == 11
    assert "buffer/rejected_frames" not in status.counters
    round_trip(cfg, buffer.address)


def test_a_key_counts_from_when_it_is_added_until_it_is_taken_away(cfg, buffer, keys):
    make_keys(keys, ["late"])
    late = str(keys / "hosts" / "late")
    assert request_status(buffer.address, 5.0, keys=late).balanced
    (keys / "allowed" / "late.pub").unlink()
    with pytest.raises(BufferUnreachable):
        request_status(buffer.address, 0.3, keys=late)
    assert request_status(buffer.address, 5.0, keys=str(keys)).balanced


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
        assert noisy.poll(5000)
        noisy.recv()
        for _ in range(10 * STRIKES):
            noisy.send(b"nonsense")
        noisy.send(encode(StatusRequest()))
        deadline = monotonic() + 10.0
        while (status := request_status(buffer.address, 5.0)).counters.get("buffer/rejected_frames", 0) <= 10 * STRIKES:
            assert monotonic() < deadline
        assert status.counters["buffer/quarantines"] == 1
        assert status.peers["sender noisy"]["state"] == "quarantined"
        assert not noisy.poll(200)
        round_trip(cfg, buffer.address)
        noisy.close(linger=0)
