"""The real buffer process on a real socket: a whole run by scripted peers, refusals, garbage, signals."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from time import monotonic

import msgpack
import msgspec
import pytest
import zmq
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.observer import request_status
from prolong.buffer.main import main
from prolong.common.errors import AddressInUse, DataError, HandshakeRefused, RunStopped
from prolong.common.messages import (
    Finish,
    GroupAck,
    GroupResult,
    Heartbeat,
    Role,
    StepDone,
    TakeBatch,
    Tickets,
    UpdateWeights,
)
from prolong.common.transport.sockets import connect_dealer
from prolong.common.transport.wire import encode

from tests.support.buffer_process import (
    BufferProcess,
    answer,
    apply,
    hello,
    make_client,
    make_config,
    write_tokenizer,
)
from tests.support.runs import assert_balanced, free_port
from tests.support.scripted_peers import start_actor, start_learner


@pytest.fixture
def cfg(tmp_path):
    return make_config(tmp_path)


@pytest.fixture
def buffer(cfg):
    with BufferProcess(cfg) as process:
        yield process


def test_scripted_peers_make_a_whole_run_and_everybody_hears_the_end(cfg, buffer):
    actor, learner = start_actor(cfg, buffer.address), start_learner(cfg, buffer.address)
    for version in range(cfg.run.steps):
        learner.publish(version)
        batch = learner.step(version)
        assert (batch.version, len(batch.groups)) == (version, cfg.buffer.batch_groups)
    status = learner.finish(cfg.run.steps)
    assert status.balanced
    assert status.ledger["trained"] == cfg.run.steps * cfg.buffer.batch_groups
    actor.join(60.0)
    assert isinstance(actor.ended, RunStopped)
    assert actor.ended.exit_code == 0
    learner.client.close()
    actor.client.close()
    assert buffer.process.wait(60.0) == 0
    assert not buffer.paths.buffer.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_tells_every_peer_and_ends_with_exit_code_0(cfg, buffer, number):
    actor, learner = start_actor(cfg, buffer.address), start_learner(cfg, buffer.address)
    os.kill(buffer.process.pid, number)
    with pytest.raises(RunStopped, match="told to stop"):
        learner.batches.take(60.0)
    actor.join(60.0)
    assert isinstance(actor.ended, RunStopped)
    assert buffer.process.wait(60.0) == 0
    assert not buffer.paths.buffer.exists()
    actor.client.close()
    learner.client.close()


def test_a_taken_port_ends_the_second_buffer_with_one_sentence(tmp_path, buffer):
    second = make_config(tmp_path / "second", address=buffer.address)
    with pytest.raises(AddressInUse, match=r"in use by another process .* buffer.address="):
        main(second)


def test_a_wrong_tokenizer_or_protocol_is_refused_naming_both(tmp_path, cfg, buffer):
    other = msgspec.structs.replace(hello(cfg, Role.actor, "actor-1"), tokenizer="f00d")
    ours = hello(cfg, Role.actor, "actor-1").tokenizer
    with pytest.raises(HandshakeRefused, match=f"f00d.*{ours}"):
        BufferClient(buffer.address, other, max_bytes=1 << 20).connect(60.0)
    with pytest.raises(HandshakeRefused, match="protocol 99"):
        make_client(cfg, buffer.address, Role.actor, "actor-1", protocol=99).connect(60.0)
    different = make_config(tmp_path / "different")
    write_tokenizer(tmp_path / "different" / "model", "other words entirely")
    with pytest.raises(HandshakeRefused):
        make_client(different, buffer.address, Role.actor, "actor-1").connect(60.0)


def test_a_second_learner_waits_until_the_first_is_gone(cfg, buffer):
    first = start_learner(cfg, buffer.address)
    with pytest.raises(HandshakeRefused, match=r"still refused learner-2 after 2 s: learner learner .* is alive"):
        make_client(cfg, buffer.address, Role.learner, "learner-2", pid=1).connect(2.0)
    second = make_client(cfg, buffer.address, Role.learner, "learner-2", pid=1)
    waiting = threading.Thread(target=second.connect, args=(60.0,))
    waiting.start()
    first.client.close()
    waiting.join(60.0)
    assert not waiting.is_alive()
    assert request_status(buffer.address, 60.0).peers.keys() == {"learner-2"}
    second.close()


def test_status_is_answered_without_a_handshake(cfg, buffer):
    status = request_status(buffer.address, 60.0)
    assert (status.run, status.balanced, status.ledger["total"]) == (cfg.run.name, True, 0)


def damaged_frames(seed: int, count: int):
    """Random bytes, truncated and bit-flipped frames, sound frames of wrong shape, sound messages of unknown peers."""
    rng = random.Random(seed)
    sound = [
        encode(Heartbeat(stats={"a": 1.0})),
        encode(TakeBatch(generation=1, version=0)),
        encode(StepDone(generation=0, version=3)),
    ]
    for _ in range(count):
        frame = bytearray(rng.choice(sound))
        kind = rng.randrange(5)
        if kind == 0:
            frame = bytearray(rng.randbytes(rng.randrange(200)))
        elif kind == 1:
            del frame[rng.randrange(len(frame)) :]
        elif kind == 2:
            frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        elif kind == 3:
            payload = msgpack.packb({"type": rng.choice(["Hello", "GroupResult", "Nope"]), "x": rng.random()})
            assert payload is not None
            frame = bytearray(frame[:4] + struct.pack("<I", zlib.crc32(payload)) + payload)
        yield bytes(frame)


def test_thousands_of_malformed_frames_are_counted_and_the_service_goes_on(cfg, buffer):
    with zmq.Context() as context:
        dealer = connect_dealer(context, buffer.address, 1 << 20)
        assert dealer.poll(60_000, zmq.POLLOUT)
        for frame in damaged_frames(seed=1, count=3000):
            dealer.send(frame)
        dealer.send_multipart([b"one", b"two", b"three"])
        dealer.send_multipart([b"", b""])
        deadline = monotonic() + 90
        while request_status(buffer.address, 60.0).counters.get("buffer/rejected_frames", 0) < 2000:
            assert monotonic() < deadline
        dealer.close(linger=0)
    actor, learner = start_actor(cfg, buffer.address), start_learner(cfg, buffer.address)
    learner.publish(0)
    assert len(learner.step(0).groups) == cfg.buffer.batch_groups
    actor.client.close()
    learner.client.close()


def test_garbage_at_the_tcp_port_hurts_nobody(cfg, buffer):
    rng = random.Random(2)
    host, port = buffer.address.removeprefix("tcp://").split(":")
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            try:
                connection.sendall(rng.choice([b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(5000), b"\xff\0\0\0\0\0\0\0\x01\x7f"]))
                connection.sendall(rng.randbytes(100))
            except OSError:
                continue  # ZeroMQ hung up already
    learner = start_learner(cfg, buffer.address)
    assert learner.welcome.generation == 1
    learner.client.close()


NOT_FINITE = ({"behaviour_logprobs": b"\0\0\xc0\x7f" * 4}, "a log-probability that is not finite", "nonfinite")
NO_ROW = ({"token_ids": struct.pack("<4i", 1, 2, 500, 3)}, "token id 500, the model knows ids below 500 only", "vocabulary")


@pytest.mark.parametrize(("change", "said", "kind"), [NOT_FINITE, NO_ROW])
def test_a_flawed_group_is_counted_and_its_prompt_issued_again_at_once(cfg, change, said, kind):
    (Path(cfg.model.path) / "config.json").write_text(json.dumps({"vocab_size": 500}))
    with BufferProcess(cfg) as buffer:
        send_flawed_group(cfg, buffer, change, said, kind)


def send_flawed_group(cfg, buffer, change, said, kind):
    client = make_client(cfg, buffer.address, Role.actor, "actor-0")
    work, updates, acks = client.inbox(Tickets), client.inbox(UpdateWeights), client.inbox(GroupAck)
    client.connect(60.0)
    learner = start_learner(cfg, buffer.address)
    learner.weights.try_take()
    publisher = threading.Thread(target=learner.publish, args=(0,))
    publisher.start()
    apply(client, updates.take(60.0))
    publisher.join(60.0)
    ticket = work.take(60.0).tickets[0]
    group = answer(ticket, "actor-0")
    broken = msgspec.structs.replace(group.rollouts[0], **change)
    client.send(GroupResult(group=msgspec.structs.replace(group, rollouts=[broken, group.rollouts[1]])))
    ack = acks.take(60.0)
    assert (ack.ordinal, ack.accepted) == (ticket.ordinal, True)
    assert ack.reason == f"failed: rollout 0: {said}"
    assert work.take(60.0).tickets[0].prompt == ticket.prompt
    assert request_status(buffer.address, 60.0).counters[f"buffer/flawed_{kind}"] == 1
    client.close(0.1)
    learner.client.close()


def reset(run: Path) -> tuple[int, str, str]:
    """`prolong reset --run FOLDER`: exit code, standard output, standard error."""
    command = [sys.executable, "-m", "prolong.launch.cli", "reset", "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    return done.returncode, done.stdout, done.stderr


def test_prolong_reset_reaches_the_learner_with_the_next_batch_and_only_that(cfg, buffer):
    actor, learner = start_actor(cfg, buffer.address), start_learner(cfg, buffer.address)
    learner.publish(0)
    assert not learner.step(0).reset_requested
    learner.publish(1)
    assert reset(buffer.paths.folder) == (0, "noted: the learner resets with the batch of version 1\n", "")
    assert learner.step(1).reset_requested
    for version in (2, 3):
        learner.publish(version)
        assert not learner.step(version).reset_requested
    code, _, error = reset(buffer.paths.folder)
    assert code == 2
    assert "its last batch is formed" in error
    learner.client.send(Finish(generation=learner.welcome.generation, version=cfg.run.steps))
    learner.batches.take(60.0)
    actor.join(60.0)
    learner.client.close()
    actor.client.close()
    assert buffer.process.wait(60.0) == 0
    code, _, error = reset(buffer.paths.folder)
    assert (code, error.count("\n")) == (1, 1)
    assert "has no live buffer" in error
    buffer.paths.summary.write_text("{}")
    code, _, error = reset(buffer.paths.folder)
    assert code == 2
    assert "run tested has ended" in error


def test_a_run_that_ends_early_leaves_a_ledger_at_rest(cfg, buffer):
    actor, learner = start_actor(cfg, buffer.address), start_learner(cfg, buffer.address)
    learner.publish(0)
    learner.step(0)
    ledger = learner.finish(1).ledger
    assert_balanced({"ledger": ledger}, 1, cfg.buffer.batch_groups)
    assert ledger["stored"] == 0
    actor.join(60.0)
    assert isinstance(actor.ended, RunStopped)
    assert actor.ended.exit_code == 0
    actor.client.close()
    learner.client.close()


def test_bad_prompts_are_refused_before_anything_is_served(tmp_path, cfg):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n')
    with pytest.raises(DataError, match=r"prompts.jsonl, line 1"):
        main(cfg)


def test_the_buffer_imports_neither_torch_nor_transformers():
    code = (
        "import sys; import prolong.buffer.main\n"
        "heavy = {'torch', 'transformers', 'vllm', 'hydra', 'tensorflow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)


def test_a_run_goes_on_after_the_buffer_was_killed_and_started_again(tmp_path):
    cfg = make_config(tmp_path, address=f"tcp://127.0.0.1:{free_port()}")
    with BufferProcess(cfg) as first:
        actor, learner = start_actor(cfg, first.address), start_learner(cfg, first.address)
        learner.publish(0)
        batch = learner.step(0)
        learner.publish(1)
        first.kill()
        learner.client.send(TakeBatch(generation=learner.welcome.generation, version=1))
    with BufferProcess(cfg) as second:
        assert batch.version == 0
        learner.syncs.take(60.0)
        learner.publish(1)
        assert learner.batch().version == 1
        assert request_status(second.address, 60.0).balanced
        actor.client.close()
        learner.client.close()


def test_the_note_names_address_and_process(buffer):
    note = json.loads(buffer.paths.buffer.read_text())
    assert note == {"address": buffer.address, "pid": buffer.process.pid}
