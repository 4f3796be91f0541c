"""The sender against a scripted buffer and a transport that notes what it is given. Waits are for events, not for times."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pytest
import torch
from prolong.buffer.client.client import BufferClient
from prolong.buffer.client.inbox import Inbox
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import RunStopped, WeightsError
from prolong.common.messages import Cordon, Publish, PublishPlan, PublishResult, SyncRequested, Welcome
from prolong.common.types import Rendezvous
from prolong.common.weights.buckets import PackedWeights
from prolong.learner.weights import sender as sender_module
from prolong.learner.weights.adaptive_deadline import AdaptiveDeadline
from prolong.learner.weights.offering import WeightOffering
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.publisher import PackingPublisher
from prolong.learner.weights.sender import MAX_UNREACHED, WeightSender

HANG_S = 60.0
SPECS = [("weight", torch.float32, (4,))]
M = TypeVar("M")


class ScriptedBuffer:
    """The client's and the inbox's part that a sender uses; the test says what the buffer answers."""

    def __init__(self) -> None:
        self.welcome = Welcome(generation=1, heartbeat_s=1.0, lease_s=1.0, version=0)
        self.sent: queue.Queue[Any] = queue.Queue()
        self.arrived: queue.Queue[Any] = queue.Queue()

    def send(self, message: object) -> None:
        self.sent.put(message)

    def take_within(self, timeout_s: float) -> Any:
        try:
            message = self.arrived.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def heard(self, kind: type[M]) -> M:
        """The next message of the sender, which must be of that class."""
        message = self.sent.get(timeout=HANG_S)
        assert isinstance(message, kind), message
        return message

    def plan(self, publish: Publish, epoch: int, *members: str) -> None:
        self.arrived.put(
            PublishPlan(generation=publish.generation, version=publish.version, epoch=epoch, members=list(members))
        )

    def result(self, publish: Publish, epoch: int, checksums: dict[str, list[int]], **failed: str) -> None:
        self.arrived.put(PublishResult(epoch=epoch, version=publish.version, checksums=checksums, failed=failed))


class NotingEnd:
    """A transport's end that reaches every member at once, or none."""

    rendezvous = Rendezvous(transport="noting", address=b"here")

    def __init__(self) -> None:
        self.published: queue.Queue[tuple[PublishPlan, list[int]]] = queue.Queue()
        self.num_disconnects = 0
        self.closed = False
        self.fails = False

    def publish(self, plan: PublishPlan, weights: PackedWeights, phase_timeout_s: float) -> list[float]:
        self.published.put((plan, weights.checksums()))
        if self.fails:
            raise WeightsError("a member is lost")
        return [0.0, 0.25]

    def disconnect(self) -> None:
        self.num_disconnects += 1

    def close(self) -> None:
        self.closed = True


class Scene:
    """A started sender, its buffer and its end."""

    def __init__(self, offering: WeightOffering | None = None) -> None:
        self.buffer, self.end = ScriptedBuffer(), NotingEnd()
        cfg = WeightsConfig(timeout_s=60.0)
        self.deadline = AdaptiveDeadline(60.0)
        self.packer = WeightPacker(SPECS, 1 << 20)
        self.sender = WeightSender(
            cast(BufferClient, self.buffer),
            cast("Inbox[PublishPlan | PublishResult | SyncRequested]", self.buffer),
            self.end,
            self.packer,
            cfg,
            self.deadline,
            offering,
        )
        self.publisher = PackingPublisher(self.packer, [self.sender])

    def publish(self, version: int) -> list[int]:
        """Publish; returns the checksums of the version."""
        tensors = [("weight", torch.full((4,), float(version)))]
        self.publisher.publish(version, tensors)
        return WeightPacker(SPECS, 1 << 20).pack(version, tensors).checksums()

    def deliver(self, publish: Publish, epoch: int, *members: str) -> list[int]:
        """Plan the publish; returns the checksums that the transport was given."""
        self.buffer.plan(publish, epoch, *members)
        plan, sums = self.end.published.get(timeout=HANG_S)
        assert (plan.version, plan.epoch, plan.members) == (publish.version, epoch, list(members))
        return sums


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(sender_module, "POLL_S", 0.01)
    scene = Scene()
    scene.sender.start()
    yield scene
    scene.sender.close()
    assert scene.end.closed


def test_a_publish_names_the_rendezvous_and_its_plan_is_sent_once(scene: Scene) -> None:
    sums = scene.publish(0)
    publish = scene.buffer.heard(Publish)
    assert (publish.generation, publish.version, publish.rendezvous) == (1, 0, scene.end.rendezvous)
    assert publish.manifest == scene.packer.manifest
    assert publish.phase_timeout_s == scene.deadline.phase_timeout_s
    assert scene.deliver(publish, 1, "a", "b") == sums
    scene.buffer.result(publish, 1, {"a": sums, "b": sums})
    assert scene.sender.wait_idle(HANG_S)
    assert scene.sender.metrics()["weights/failed"] == 0
    assert scene.buffer.sent.empty()
    assert scene.end.num_disconnects == 0


def test_a_plan_without_members_is_a_success(scene: Scene) -> None:
    scene.publish(0)
    scene.buffer.plan(scene.buffer.heard(Publish), 1)
    assert scene.sender.wait_idle(HANG_S)
    assert scene.end.published.empty()


def test_newer_weights_replace_those_that_wait_but_not_those_under_way(scene: Scene) -> None:
    first = scene.publish(0)
    publish = scene.buffer.heard(Publish)
    scene.publish(1)
    newest = scene.publish(2)
    assert scene.deliver(publish, 1, "a") == first
    scene.buffer.result(publish, 1, {"a": first})
    publish = scene.buffer.heard(Publish)
    assert publish.version == 2
    assert scene.deliver(publish, 1, "a") == newest
    scene.buffer.result(publish, 1, {"a": newest})
    assert scene.sender.wait_idle(HANG_S)
    assert scene.sender.metrics()["weights/replaced"] == 1


def test_a_publish_that_failed_for_a_member_is_tried_once_more(scene: Scene) -> None:
    sums = scene.publish(0)
    for epoch in (1, 2):
        publish = scene.buffer.heard(Publish)
        assert publish.given_up == -1, "the buffer gave the result itself"
        scene.deliver(publish, epoch, "a", "b")
        scene.buffer.result(publish, epoch, {"a": sums}, b="timed out")
    assert scene.sender.wait_idle(HANG_S)
    assert scene.buffer.sent.empty()
    assert scene.sender.metrics()["weights/failed"] == 2
    assert scene.end.num_disconnects == 2


def test_a_member_with_other_checksums_is_cordoned(scene: Scene) -> None:
    sums = scene.publish(0)
    publish = scene.buffer.heard(Publish)
    scene.deliver(publish, 1, "a", "b")
    scene.buffer.result(publish, 1, {"a": sums, "b": [value + 1 for value in sums]})
    assert scene.buffer.heard(Cordon) == Cordon(epoch=1, names=["b"])
    assert scene.buffer.heard(Publish).version == 0, "b needs them again"


def test_without_a_result_the_next_publish_gives_the_epoch_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "RESULT_SLACK_S", 0.0)
    monkeypatch.setattr(AdaptiveDeadline, "phase_timeout_s", 0.01)
    scene.publish(0)
    publish = scene.buffer.heard(Publish)
    scene.deliver(publish, 7, "a")
    again = scene.buffer.heard(Publish)
    assert (again.version, again.given_up) == (0, 7)


def test_a_buffer_that_welcomes_another_generation_is_sent_the_publish_again(scene: Scene) -> None:
    scene.publish(0)
    assert scene.buffer.heard(Publish).generation == 1
    scene.buffer.welcome = Welcome(generation=2, heartbeat_s=1.0, lease_s=1.0, version=0)
    assert scene.buffer.heard(Publish).generation == 2


def test_weights_that_are_asked_for_are_sent_again(scene: Scene) -> None:
    sums = scene.publish(5)
    scene.buffer.plan(scene.buffer.heard(Publish), 1)
    assert scene.sender.wait_idle(HANG_S)
    scene.buffer.arrived.put(SyncRequested(reason="a lacks weights"))
    assert scene.deliver(scene.buffer.heard(Publish), 2, "a") == sums


class NotingOffering:
    """Notes that it is asked to offer again."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def offer_again(self) -> None:
        self.asked.set()


def test_who_pulls_may_be_the_one_that_lacks_weights() -> None:
    offering = NotingOffering()
    scene = Scene(cast(WeightOffering, offering))
    scene.sender.start()
    scene.buffer.arrived.put(SyncRequested(reason="a, which pulls, lacks weights"))
    assert offering.asked.wait(HANG_S)
    scene.sender.close()


def test_a_run_whose_actors_all_pull_never_counts_as_one_that_reaches_nobody(scene: Scene) -> None:
    for version in range(MAX_UNREACHED + 1):
        scene.publish(version)
        scene.buffer.plan(scene.buffer.heard(Publish), version)
        assert scene.sender.wait_idle(HANG_S)
    scene.publish(MAX_UNREACHED + 1)


def test_a_failed_broadcast_of_the_transport_lengthens_the_deadline_and_a_good_one_resets_it(scene: Scene) -> None:
    sums, first_s = scene.publish(0), scene.deadline.phase_timeout_s
    scene.end.fails = True
    publish = scene.buffer.heard(Publish)
    scene.deliver(publish, 1, "a")
    scene.buffer.result(publish, 1, {}, a="connection closed by peer")
    publish = scene.buffer.heard(Publish)
    assert publish.phase_timeout_s == 2 * first_s
    scene.end.fails = False
    scene.deliver(publish, 2, "a")
    scene.buffer.result(publish, 2, {"a": sums})
    assert scene.sender.wait_idle(HANG_S)
    assert scene.deadline.phase_timeout_s < first_s


def test_when_no_publish_reaches_an_actor_the_next_one_raises(scene: Scene) -> None:
    scene.publish(0)
    for epoch in range(MAX_UNREACHED):
        if epoch % 2 == 0 and epoch:
            scene.buffer.arrived.put(SyncRequested(reason="a lacks weights"))
        publish = scene.buffer.heard(Publish)
        scene.deliver(publish, epoch, "a")
        scene.buffer.result(publish, epoch, {}, a="timed out")
        if epoch % 2 and epoch + 1 < MAX_UNREACHED:
            assert scene.sender.wait_idle(HANG_S)
    assert scene.sender.wait_idle(HANG_S)
    with pytest.raises(WeightsError, match="publishes in a row reached no actor"):
        scene.publish(1)


def test_an_error_that_ends_the_thread_is_raised_by_the_next_publish(scene: Scene) -> None:
    scene.publish(0)
    scene.buffer.arrived.put(RunStopped("the run is over"))
    assert scene.sender.wait_idle(HANG_S), "a thread that has ended is waited for no longer"
    with pytest.raises(RunStopped, match="the run is over"):
        scene.publish(1)


@pytest.mark.parametrize("part", ["publish", "disconnect"])
def test_an_error_of_any_kind_that_ends_the_thread_is_raised_by_the_next_publish(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A thread that ended without a word would leave the actors with old weights until the learner starves."""

    def break_down(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(scene.end, part, break_down)
    scene.publish(0)
    publish = scene.buffer.heard(Publish)
    scene.buffer.plan(publish, 1, "a")
    scene.buffer.result(publish, 1, {}, a="timed out")
    assert scene.sender.wait_idle(HANG_S)
    with pytest.raises(WeightsError, match="thread that sends weights ended: RuntimeError: CUDA out of memory"):
        scene.publish(1)


def test_checksums_that_cannot_be_computed_are_a_failed_publish_and_the_next_one_works(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = scene.publish(0)
    publish = scene.buffer.heard(Publish)
    scene.deliver(publish, 1, "a")

    def out_of_memory(weights: PackedWeights) -> list[int]:
        monkeypatch.undo()
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedWeights, "checksums", out_of_memory)
    scene.buffer.result(publish, 1, {"a": sums})
    publish = scene.buffer.heard(Publish)
    scene.deliver(publish, 2, "a")
    scene.buffer.result(publish, 2, {"a": sums})
    assert scene.sender.wait_idle(HANG_S)
    assert scene.sender.metrics()["weights/failed"] == 1
    scene.publish(1)


def test_never_more_than_two_versions_are_kept(scene: Scene) -> None:
    """Each takes 2 bytes a parameter of the host's memory: one travels, and the newest waits."""
    kept: list[set[int]] = []
    pack = scene.packer.pack

    def noting(*args: Any) -> PackedWeights:
        packed = pack(*args)
        kept.append({flat.data_ptr() for flat in packed.buckets})
        return packed

    scene.packer.pack = noting  # type: ignore[method-assign]
    first = scene.publish(0)
    publish = scene.buffer.heard(Publish)
    for version in (1, 2, 3):
        newest = scene.publish(version)
    assert len(set.union(*kept)) == 2
    scene.deliver(publish, 1, "a")
    scene.buffer.result(publish, 1, {"a": first})
    publish = scene.buffer.heard(Publish)
    assert scene.deliver(publish, 1, "a") == newest
    scene.buffer.result(publish, 1, {"a": newest})
    assert scene.sender.wait_idle(HANG_S)
    assert scene.sender.metrics()["weights/replaced"] == 2


def test_the_thread_works_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the training stream every kernel behind a broadcast would wait for a slow actor."""
    entered: list[tuple[str, torch.device]] = []

    @contextmanager
    def own_stream(device: torch.device) -> Iterator[None]:
        entered.append((threading.current_thread().name, device))
        yield

    monkeypatch.setattr(sender_module, "own_stream", own_stream)
    scene = Scene()
    scene.sender.start()
    scene.sender.close()
    assert entered == [("weight-sender", torch.device("cpu"))]


def test_a_sender_that_was_never_started_closes_its_end() -> None:
    scene = Scene()
    scene.sender.close()
    assert scene.end.closed
