"""The promises of common/weights/api.py, which every transport in IMPLEMENTATIONS keeps: threads of one process, gloo."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress

import msgspec
import pytest
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.types import Manifest, Rendezvous
from prolong.common.weights.api import ActorEnd, LearnerEnd, WeightTransport
from prolong.common.weights.buckets import PackedWeights, fill_bucket, plan_buckets
from prolong.common.weights.transports import TRANSPORTS

from tests.support.folder_transport import folder_transport

pytestmark = pytest.mark.timeout(120)
CPU = torch.device("cpu")
PHASE_S = 60.0  # enough for a busy machine
SHORT_S = 0.2  # a deadline that a test waits for
NEVER_S = 600.0  # a deadline beyond the test's own: an error that is seen did not wait for it
SHAPES = [("embed", "float32", (8, 4)), ("scale", "bfloat16", (3,)), ("head", "float32", (16, 8))]
MANIFEST = plan_buckets(SHAPES, 256)

IMPLEMENTATIONS = {"folder": folder_transport()} | TRANSPORTS


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def transport(request: pytest.FixtureRequest) -> WeightTransport:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def learner(transport: WeightTransport) -> Iterator[LearnerEnd]:
    end = transport.open_learner_end(WeightsConfig(timeout_s=PHASE_S), CPU)
    yield end
    end.close()


@pytest.fixture
def actors(transport: WeightTransport) -> Iterator[list[ActorEnd]]:
    ends = [transport.open_actor_end(CPU) for _ in range(3)]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def packed(version: int, manifest: Manifest = MANIFEST) -> PackedWeights:
    generator = torch.Generator().manual_seed(version)
    tensors = {
        spec.name: torch.randn(spec.shape, generator=generator).to(getattr(torch, spec.dtype))
        for bucket in manifest.buckets
        for spec in bucket.tensors
    }
    return PackedWeights(version=version, manifest=manifest, buckets=[fill_bucket(b, tensors) for b in manifest.buckets])


def plan_of(version: int, epoch: int, num_members: int) -> PublishPlan:
    members = [f"actor-{i}" for i in range(num_members)]
    return PublishPlan(generation=1, version=version, epoch=epoch, members=members)


def update_of(rendezvous: Rendezvous, plan: PublishPlan, member: int, manifest: Manifest = MANIFEST) -> UpdateWeights:
    return UpdateWeights(
        generation=plan.generation,
        version=plan.version,
        epoch=plan.epoch,
        member=member,
        num_members=len(plan.members),
        rendezvous=rendezvous,
        manifest=manifest,
    )


def download(end: ActorEnd, update: UpdateWeights, phase_timeout_s: float = PHASE_S) -> list[torch.Tensor]:
    with closing(end.download(update, phase_timeout_s)) as buckets:
        return list(buckets)


def broadcast(
    pool: ThreadPoolExecutor, learner: LearnerEnd, actors: list[ActorEnd], version: int, epoch: int
) -> list[list[torch.Tensor]]:
    """Send `version` to all actors; the buckets that each of them received."""
    plan = plan_of(version, epoch, len(actors))
    downloads = [pool.submit(download, end, update_of(learner.rendezvous, plan, place)) for place, end in enumerate(actors)]
    phases_s = learner.publish(plan, packed(version), PHASE_S)
    assert phases_s
    assert min(phases_s) >= 0
    return [received.result() for received in downloads]


def assert_holds(received: list[torch.Tensor], version: int) -> None:
    expected = packed(version).buckets
    assert [flat.dtype for flat in received] == [torch.uint8] * len(expected)
    assert all(torch.equal(got, sent) for got, sent in zip(received, expected, strict=True))


def test_every_member_gets_every_bucket_of_every_version_bit_for_bit(pool, learner, actors):
    assert len(MANIFEST.buckets) > 1
    for version in range(3):
        for received in broadcast(pool, learner, actors, version, epoch=1):
            assert_holds(received, version)


def test_buckets_that_were_downloaded_are_never_written_again(pool, learner, actors):
    kept = [broadcast(pool, learner, actors, version, epoch=1) for version in range(3)]
    for version, of_actors in enumerate(kept):
        for received in of_actors:
            assert_holds(received, version)


def test_the_learner_may_overwrite_its_buckets_once_publish_returned(pool, learner, actors):
    plan, weights = plan_of(0, 1, 3), packed(0)
    downloads = [pool.submit(download, end, update_of(learner.rendezvous, plan, i)) for i, end in enumerate(actors)]
    learner.publish(plan, weights, PHASE_S)
    for flat in weights.buckets:
        flat.zero_()
    for received in downloads:
        assert_holds(received.result(), 0)


def test_another_list_of_members_is_another_epoch_of_the_same_ends(pool, learner, actors):
    for epoch, num_members in ((1, 3), (2, 1), (3, 2)):
        for received in broadcast(pool, learner, actors[:num_members], version=epoch, epoch=epoch):
            assert_holds(received, epoch)


def test_a_download_may_begin_before_or_after_the_publish(pool, learner, actors):
    plan = plan_of(0, 1, 2)
    sent = pool.submit(learner.publish, plan, packed(0), PHASE_S)
    received = [pool.submit(download, actors[i], update_of(learner.rendezvous, plan, i)) for i in range(2)]
    for future in received:
        assert_holds(future.result(), 0)
    sent.result()


def test_a_download_whose_learner_never_publishes_ends_by_its_deadline_and_the_next_epoch_works(pool, learner, actors):
    update = update_of(learner.rendezvous, plan_of(0, 1, 1), 0)
    with pytest.raises(WeightsError):
        download(actors[0], update, SHORT_S)
    (received,) = broadcast(pool, learner, actors[:1], version=0, epoch=2)
    assert_holds(received, 0)


def test_a_publish_whose_member_never_comes_ends_and_after_disconnect_the_next_epoch_works(pool, learner, actors):
    """Whether it ends with an error is the transport's own: only acknowledgements prove anything."""
    with suppress(WeightsError):
        learner.publish(plan_of(0, 1, 1), packed(0), SHORT_S)
    learner.disconnect()
    learner.disconnect()
    (received,) = broadcast(pool, learner, actors[:1], version=0, epoch=2)
    assert_holds(received, 0)


def test_an_abandoned_download_does_not_disturb_a_newer_one(pool, learner, actors):
    hangs = pool.submit(download, actors[0], update_of(learner.rendezvous, plan_of(0, 1, 1), 0), 0.5)
    (received,) = broadcast(pool, learner, actors[:1], version=1, epoch=2)
    assert_holds(received, 1)
    assert isinstance(hangs.exception(), WeightsError)
    (received,) = broadcast(pool, learner, actors[:1], version=2, epoch=2)
    assert_holds(received, 2)


def test_after_a_download_that_its_caller_broke_off_the_next_epoch_works(pool, learner, actors):
    plan = plan_of(0, 1, 1)
    first = threading.Event()

    def break_off() -> None:
        with closing(actors[0].download(update_of(learner.rendezvous, plan, 0), PHASE_S)) as buckets:
            next(buckets)
            first.set()

    broken = pool.submit(break_off)
    with suppress(WeightsError):
        learner.publish(plan, packed(0), PHASE_S)
    broken.result()
    learner.disconnect()
    (received,) = broadcast(pool, learner, actors[:1], version=1, epoch=2)
    assert_holds(received, 1)


def test_a_member_with_another_manifest_gets_no_bytes(pool, learner, actors):
    other = plan_buckets(SHAPES, 1 << 20)
    assert other != MANIFEST
    plan = plan_of(0, 1, 1)
    received = pool.submit(download, actors[0], update_of(learner.rendezvous, plan, 0, other), 1.0)
    with suppress(WeightsError):
        learner.publish(plan, packed(0), 1.0)
    assert isinstance(received.exception(), WeightsError)


def test_a_rendezvous_survives_the_wire_stays_the_same_and_is_no_other_learners(transport, learner):
    wire = msgspec.msgpack.encode(learner.rendezvous)
    assert msgspec.msgpack.decode(wire, type=Rendezvous) == learner.rendezvous
    assert learner.rendezvous == learner.rendezvous
    another = transport.open_learner_end(WeightsConfig(), CPU)
    assert another.rendezvous != learner.rendezvous
    assert another.rendezvous.transport == learner.rendezvous.transport
    another.close()
    another.close()


@pytest.mark.parametrize("address", [b"", b"\xff" * 64, b"\xc1", msgspec.msgpack.encode({"host": "127.0.0.1"})])
def test_a_rendezvous_that_is_none_is_an_error_of_the_weights(learner, actors, address):
    forged = Rendezvous(transport=learner.rendezvous.transport, address=address)
    with pytest.raises(WeightsError):
        download(actors[0], update_of(forged, plan_of(0, 1, 1), 0), SHORT_S)


def test_an_actor_end_may_be_closed_while_a_download_hangs_and_twice(pool, learner, actors):
    hangs: Future = pool.submit(download, actors[0], update_of(learner.rendezvous, plan_of(0, 1, 1), 0), SHORT_S)
    actors[0].close()
    actors[0].close()
    assert isinstance(hangs.exception(), WeightsError)
