"""The learner goes on whatever NCCL does: its sender over the real end of the collective, with an actor that fails likewise."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.inbox import Inbox
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import Publish, PublishPlan, PublishResult, SyncRequested, UpdateWeights, Welcome
from prolong.common.weights import collective_group, nccl
from prolong.common.weights.buckets import checksum
from prolong.common.weights.collective import CollectiveTransport
from prolong.common.weights.collective_group import Presence
from prolong.learner.weights import sender as sender_module
from prolong.learner.weights.adaptive_deadline import AdaptiveDeadline
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.sender import WeightSender

from tests.support.fake_nccl import FakeNccl
from tests.support.hand_clock import HandClock
from tests.support.runs import wait_until

pytestmark = pytest.mark.timeout(120)
CPU = torch.device("cpu")
HANG_S, PHASE_S = 60.0, 30.0
SPECS = [("weight", torch.float32, (4,))]


class World:
    """A sender, a buffer that plans each publish for one actor in an epoch of its own, and that actor."""

    clock: HandClock  # of NCCL's deadlines

    def __init__(self, library: FakeNccl) -> None:
        self.welcome = Welcome(generation=1, heartbeat_s=1.0, lease_s=1.0, version=0)
        self.arrived: queue.Queue[Any] = queue.Queue()
        self.received: queue.Queue[int] = queue.Queue()  # versions that the actor got
        self._local = threading.local()
        self.library, self._epoch = library, 0
        self._pool = ThreadPoolExecutor(4)
        self._actor = CollectiveTransport().open_actor_end(CPU)
        end = CollectiveTransport().open_learner_end(WeightsConfig(timeout_s=PHASE_S), CPU)
        inbox = cast("Inbox[PublishPlan | PublishResult | SyncRequested]", self)
        deadline = AdaptiveDeadline(PHASE_S)
        self.packer = WeightPacker(SPECS, 1 << 20)
        cfg = WeightsConfig(timeout_s=PHASE_S)
        self.sender = WeightSender(cast(BufferClient, self), inbox, end, self.packer, cfg, deadline)

    def presence_on(self, device: torch.device, digest: str) -> Presence:
        return Presence(digest=digest, gpu=getattr(self._local, "gpu", "GPU-learner"), nccl=self.library.version)

    def send(self, message: object) -> None:
        """What the sender tells the buffer."""
        if isinstance(message, Publish):
            self._epoch += 1
            self._pool.submit(self._act, message, self._epoch)
            plan = PublishPlan(generation=1, version=message.version, epoch=self._epoch, members=["actor"])
            self.arrived.put(plan)

    def take_within(self, timeout_s: float) -> Any:
        try:
            return self.arrived.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _act(self, publish: Publish, epoch: int) -> None:
        self._local.gpu = "GPU-actor"
        update = UpdateWeights(
            generation=1,
            version=publish.version,
            epoch=epoch,
            member=0,
            num_members=1,
            rendezvous=publish.rendezvous,
            manifest=publish.manifest,
        )
        failed, sums = {}, {}
        try:
            with closing(self._actor.download(update, PHASE_S)) as buckets:
                sums = {"actor": [checksum(flat) for flat in buckets]}
            self.received.put(publish.version)
        except WeightsError as error:
            failed = {"actor": str(error)}
        self.arrived.put(PublishResult(epoch=epoch, version=publish.version, checksums=sums, failed=failed))

    def publish(self, version: int) -> None:
        self.sender.publish(self.packer.pack(version, [("weight", torch.full((4,), float(version)))]))

    def close(self) -> None:
        self.library.release()
        self.sender.close()
        self._actor.close()
        self._pool.shutdown()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    library = FakeNccl()
    world = World(library)
    monkeypatch.setattr(nccl, "nccl_library", lambda: library)
    monkeypatch.setattr(nccl, "recorded_event", library.recorded_event)
    monkeypatch.setattr(nccl, "ABORT_S", 0.1)
    monkeypatch.setattr(collective_group, "presence_on", world.presence_on)
    monkeypatch.setattr(sender_module, "POLL_S", 0.01)
    world.clock = HandClock.of(monkeypatch, nccl, collective_group)
    world.sender.start()
    yield world
    world.close()


FAULTS = ["hang_connections", "hang_broadcasts", "raise_in_broadcast", "raise_in_state", "raise_in_event"]


@pytest.mark.parametrize("fault", [*FAULTS, "raise_in_abort", "hang_aborts"])
def test_after_any_fault_the_next_version_arrives_and_publish_never_raises(world: World, fault: str) -> None:
    world.publish(0)
    assert world.received.get(timeout=HANG_S) == 0
    assert world.sender.wait_idle(HANG_S)
    setattr(world.library, fault, True)
    world.publish(1)

    def ends() -> bool:
        if fault in ("hang_connections", "hang_broadcasts"):
            world.clock.now += PHASE_S
        return world.sender.wait_idle(0.0)

    wait_until("the end of a publish, tried twice, though no actor gets it", ends, HANG_S)
    if "abort" not in fault:
        assert world.sender.metrics()["weights/failed"] == 2
    setattr(world.library, fault, False)
    world.library.release()
    while not world.received.empty():
        world.received.get()
    world.publish(2)
    assert world.received.get(timeout=HANG_S) == 2
    assert world.sender.wait_idle(HANG_S)
