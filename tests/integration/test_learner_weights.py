"""Broadcasts through the real buffer to actors that download for real, over every transport; an actor dies inside one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import thread_time
from typing import NamedTuple

import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.common.config.run_files import run_paths, save_config
from prolong.common.config.sections import Config, SourceConfig
from prolong.common.messages import PublishPlan, PublishResult, Role, SyncRequested, UpdateWeights, WeightsApplied
from prolong.common.weights.transports import TRANSPORTS, configured_transport
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.publisher import PackingPublisher
from prolong.learner.weights.sender import WeightSender

from tests.support.buffer_process import BufferProcess, make_client
from tests.support.folder_transport import folder_transport
from tests.support.runs import wait_until
from tests.support.scripted_actor import ScriptedActor
from tests.support.tiny_model import make_tiny_model

SHAPES = {f"layer.{i}.weight": (128, 128) for i in range(36)}  # 2.4 MB, as many tensors as the demo's model


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = Config()
    cfg.run.name, cfg.run.root = "tested", str(tmp_path / "runs")
    cfg.model.path, cfg.model.max_context = str(make_tiny_model(tmp_path / "model", tied=True)), 64
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1+2=", "domain": "math", "task": "sum", "verifier": "number", "answer": {"answer": "3"}}\n')
    cfg.data.train = [SourceConfig(file=str(prompts))]
    cfg.sampling.n, cfg.sampling.max_tokens = 2, 4
    cfg.buffer.address, cfg.buffer.batch_groups = "tcp://127.0.0.1:0", 1
    cfg.buffer.heartbeat_s, cfg.buffer.silence_s = 0.1, 5.0
    cfg.weights.timeout_s = 8.0
    return cfg


TRANSPORTS_UNDER_TEST = TRANSPORTS | {"folder": folder_transport()}


@pytest.fixture(params=["collective", "folder"])
def transport(request: pytest.FixtureRequest, cfg: Config) -> str:
    cfg.weights.transport = request.param
    return request.param


class Sending(NamedTuple):
    publisher: PackingPublisher
    sender: WeightSender


@contextmanager
def sender_of(cfg: Config, address: str) -> Iterator[tuple[Sending, BufferClient]]:
    client = make_client(cfg, address, Role.learner, "learner")
    inbox = client.inbox(PublishPlan, PublishResult, SyncRequested)
    client.connect(60.0)
    specs = [(name, torch.float32, shape) for name, shape in SHAPES.items()]
    end = configured_transport(cfg.weights, TRANSPORTS_UNDER_TEST).open_learner_end(cfg.weights, torch.device("cpu"))
    packer = WeightPacker(specs, cfg.weights.bucket_mb << 20)
    sender = WeightSender(client, inbox, end, packer, cfg.weights)
    sending = Sending(PackingPublisher(packer, [sender]), sender)
    sending.publisher.start()
    try:
        yield sending, client
    finally:
        sending.publisher.close()
        client.close()


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def holds(actor: ScriptedActor, version: int) -> bool:
    """Whether the actor acknowledged these weights, and has every byte of them."""
    if not actor.versions or actor.versions[-1] != version:
        return False
    return all(torch.equal(actor.received[name], tensor) for name, tensor in weights(version).items())


def test_every_actor_gets_every_byte_and_the_learner_pays_milliseconds(cfg: Config, transport: str) -> None:
    with BufferProcess(cfg) as buffer, sender_of(cfg, buffer.address) as (learner, _), ExitStack() as left:
        actors = [ScriptedActor(cfg, buffer.address, f"actor-{i}", transports=TRANSPORTS_UNDER_TEST) for i in range(2)]
        for actor in actors:
            left.enter_context(actor)
        critical = []
        for version in range(6):
            tensors = weights(version)
            started = thread_time()  # of this thread: other processes of a busy machine do not count
            learner.publisher.publish(version, tensors.items())
            critical.append(thread_time() - started)
            wait_until(f"version {version} everywhere", lambda v=version: all(holds(a, v) for a in actors), 90)
            assert learner.sender.wait_idle(60)
        # it is a millisecond where the processor is quick
        assert sorted(critical)[len(critical) // 2] <= 0.05
        assert learner.sender.metrics()["weights/failed"] == 0


def test_published_tensors_may_change_at_once(cfg: Config, transport: str) -> None:
    with (
        BufferProcess(cfg) as buffer,
        sender_of(cfg, buffer.address) as (learner, _),
        ScriptedActor(cfg, buffer.address, transports=TRANSPORTS_UNDER_TEST) as actor,
    ):
        tensors = weights(0)
        learner.publisher.publish(0, tensors.items())
        for tensor in tensors.values():
            tensor.zero_()
        wait_until("version 0", lambda: holds(actor, 0), 90)


class SlowActor(ScriptedActor):
    """An actor that lets the learner wait in the broadcast of version 1."""

    def __init__(self, cfg: Config, address: str) -> None:
        super().__init__(cfg, address, transports=TRANSPORTS_UNDER_TEST)
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def _receive(self, update: UpdateWeights) -> WeightsApplied:
        if update.version == 1:
            self.asked.set()
            self.goes_on.wait(60.0)
        return super()._receive(update)


def test_a_newer_snapshot_replaces_one_that_waits(cfg: Config, transport: str) -> None:
    with (
        BufferProcess(cfg) as buffer,
        sender_of(cfg, buffer.address) as (learner, _),
        SlowActor(cfg, buffer.address) as actor,
    ):
        snapshots = [weights(version) for version in range(30)]
        learner.publisher.publish(0, snapshots[0].items())
        wait_until("the first version", lambda: holds(actor, 0), 90)
        assert learner.sender.wait_idle(60)
        learner.publisher.publish(1, snapshots[1].items())
        assert actor.asked.wait(60.0)
        for version in range(2, 30):
            learner.publisher.publish(version, snapshots[version].items())
        actor.goes_on.set()
        wait_until("the last version", lambda: holds(actor, 29), 90)
        assert set(actor.versions) <= {0, 1, 29}
        assert learner.sender.metrics()["weights/replaced"] == 27


def test_an_actor_that_dies_inside_a_broadcast_costs_the_others_nothing(cfg: Config) -> None:
    with (
        BufferProcess(cfg) as buffer,
        sender_of(cfg, buffer.address) as (learner, _),
        ScriptedActor(cfg, buffer.address, "survivor") as survivor,
    ):
        path = run_paths(cfg).folder / "actor.yaml"
        save_config(cfg, path)
        command = [sys.executable, "-m", "tests.support.scripted_actor", str(path), buffer.address, "mortal", "2"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        with running(command, env) as mortal:
            learner.publisher.publish(0, weights(0).items())
            wait_until("the mortal has weights", lambda: both_ready(buffer.address), 150)
            learner.publisher.publish(1, weights(1).items())
            wait_until("version 1", lambda: holds(survivor, 1), 90)
            assert learner.sender.wait_idle(60)
            learner.publisher.publish(2, weights(2).items())
            assert mortal.wait(60) == 1
        wait_until("version 2 at the survivor", lambda: holds(survivor, 2), 90)
        assert learner.sender.wait_idle(60)
        assert learner.sender.metrics()["weights/failed"] >= 1
        learner.publisher.publish(3, weights(3).items())
        wait_until("version 3 at the survivor", lambda: holds(survivor, 3), 90)


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, killed at the end of the block."""
    process = subprocess.Popen(command, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def both_ready(address: str) -> bool:
    from prolong.buffer.client.observer import request_status

    peers = request_status(address, 60.0).peers.values()
    return sum(peer.get("state") == "ready" for peer in peers) == 2
