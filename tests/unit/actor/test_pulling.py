"""Pulls into shared memory, from a server of this process: what an engine then maps, and what is served to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest
import torch
from prolong.actor.pulling import Pulling
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import UpdateWeights, WeightReaders
from prolong.common.types import PULL, Manifest, PullAddress, Rendezvous, WeightSource
from prolong.common.weights.buckets import PackedWeights, fill_bucket, plan_buckets
from prolong.common.weights.pull.catalog import catalog_digest
from prolong.common.weights.pull.chunks import ChunkLayout
from prolong.common.weights.pull.pace import Pace
from prolong.common.weights.pull.server import WeightServer
from prolong.common.weights.pull.store import ChunkStore
from prolong.common.weights.shared import SharedActorEnd

pytestmark = pytest.mark.timeout(60)
MANIFEST = plan_buckets([("a", "float32", (300, 8)), ("b", "bfloat16", (5000,)), ("c", "float32", (3,))], 8192)
OTHER = plan_buckets([("a", "float32", (64, 8))], 8192)


def packed(version: int, manifest: Manifest = MANIFEST) -> PackedWeights:
    generator = torch.Generator().manual_seed(version)
    tensors = {
        spec.name: torch.randn(spec.shape, generator=generator).to(getattr(torch, spec.dtype))
        for bucket in manifest.buckets
        for spec in bucket.tensors
    }
    return PackedWeights(version=version, manifest=manifest, buckets=[fill_bucket(b, tensors) for b in manifest.buckets])


class Learner:
    """A store of weights, and the server that gives them away on loopback."""

    def __init__(self, manifest: Manifest = MANIFEST) -> None:
        self.manifest = manifest
        self.store = ChunkStore(ChunkLayout(manifest), [torch.zeros(b.num_bytes, dtype=torch.uint8) for b in manifest.buckets])
        self.server = WeightServer("127.0.0.1", 0, None, Pace(0.0))
        self.server.serve(self.store)
        self.server.start()

    def offer(self, version: int, *sources: WeightSource) -> UpdateWeights:
        """The update of a new version. `sources`: before this one."""
        self.store.advance(packed(version, self.manifest))
        catalog = self.store.catalog(version)
        assert catalog is not None
        address = PullAddress(catalog=catalog_digest(catalog), sources=[*sources, self.server.source])
        return UpdateWeights(
            generation=1,
            version=version,
            epoch=-1,
            member=0,
            num_members=1,
            rendezvous=Rendezvous(transport=PULL, address=msgspec.msgpack.encode(address)),
            manifest=self.manifest,
        )


@pytest.fixture
def learner() -> Iterator[Learner]:
    learner = Learner()
    yield learner
    learner.server.close()


@pytest.fixture
def pulling() -> Iterator[Pulling]:
    pulling = Pulling(WeightsConfig(), None, serves=False)
    yield pulling
    pulling.close()


def engine_gets(rendezvous: Rendezvous, update: UpdateWeights) -> list[torch.Tensor]:
    """What an engine maps, copied."""
    with closing(SharedActorEnd().download(msgspec.structs.replace(update, rendezvous=rendezvous), 1.0)) as buckets:
        return [flat.clone() for flat in buckets]


def is_bit_identical(got: list[torch.Tensor], version: int, manifest: Manifest = MANIFEST) -> bool:
    return all(torch.equal(mine, sent) for mine, sent in zip(got, packed(version, manifest).buckets, strict=True))


def test_an_engine_maps_what_the_learner_has_version_after_version(learner: Learner, pulling: Pulling) -> None:
    async def pull_three() -> None:
        for version in (3, 4, 9):
            update = learner.offer(version)
            pulled = await pulling.pull(update)
            assert pulled.num_bytes > 0
            assert is_bit_identical(engine_gets(pulled.rendezvous, update), version)

    asyncio.run(pull_three())
    assert pulling.counters()["weights/pulled_bytes"] > 0


def test_the_memory_is_refused_while_the_next_pull_writes_it(learner: Learner, pulling: Pulling) -> None:
    async def pull_and_fail() -> None:
        first = learner.offer(3)
        pulled = await pulling.pull(first)
        engine_gets(pulled.rendezvous, first)
        learner.server.close()
        second = asyncio.create_task(pulling.pull(learner.offer(4)))
        done, _ = await asyncio.wait([second], timeout=0.1)
        assert not done
        pulling.give_up()
        with pytest.raises(WeightsError):
            await second
        # the pull that failed may have written some of it
        with pytest.raises(WeightsError, match="overwritten"):
            engine_gets(pulled.rendezvous, first)

    asyncio.run(pull_and_fail())


def test_what_changed_in_memory_is_fetched_again_when_the_same_weights_are_asked_for_once_more(
    learner: Learner, pulling: Pulling
) -> None:
    async def pull_twice() -> None:
        update = learner.offer(3)
        await pulling.pull(update)
        assert pulling.store is not None
        pulling.store.buckets[0][100] ^= 1
        pulled = await pulling.pull(update)
        assert is_bit_identical(engine_gets(pulled.rendezvous, update), 3)
        assert pulling.counters()["weights/damaged_chunks"] == 1
        assert pulled.num_bytes > 0

    asyncio.run(pull_twice())


def test_a_cancelled_pull_ends_its_thread(learner: Learner, pulling: Pulling) -> None:
    async def cancel() -> None:
        learner.server.close()
        task = asyncio.create_task(pulling.pull(learner.offer(3)))
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    # asyncio.run joins the thread: it would not return for an hour
    asyncio.run(cancel())


def test_weights_of_another_manifest_get_memory_of_their_own(learner: Learner, pulling: Pulling) -> None:
    async def pull_both() -> None:
        first = learner.offer(3)
        before = await pulling.pull(first)
        other = Learner(OTHER)
        update = other.offer(1)
        after = await pulling.pull(update)
        other.server.close()
        assert is_bit_identical(engine_gets(after.rendezvous, update), 1, OTHER)
        with pytest.raises(WeightsError):
            engine_gets(before.rendezvous, first)

    asyncio.run(pull_both())


def test_a_process_that_serves_passes_on_what_it_pulled(learner: Learner, pulling: Pulling) -> None:
    relay = Pulling(WeightsConfig(), None, serves=True)
    assert relay.source is not None

    async def pull_through() -> None:
        assert relay.source is not None
        relay.admit(WeightReaders(num_pullers=1, keys=[]))
        for version in (3, 4):
            update = learner.offer(version, relay.source)
            passed_on = asyncio.create_task(pulling.pull(update))  # it waits there until the relay has the chunks
            await relay.pull(learner_only(update, learner))
            pulled = await passed_on
            assert is_bit_identical(engine_gets(pulled.rendezvous, update), version)

    try:
        asyncio.run(pull_through())
        assert relay.counters()["weights/sent_bytes"] > 0
    finally:
        relay.close()


def learner_only(update: UpdateWeights, learner: Learner) -> UpdateWeights:
    address = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress)
    address = msgspec.structs.replace(address, sources=[learner.server.source])
    rendezvous = Rendezvous(transport=PULL, address=msgspec.msgpack.encode(address))
    return msgspec.structs.replace(update, rendezvous=rendezvous)


def test_only_a_process_that_serves_names_a_source(pulling: Pulling) -> None:
    assert pulling.source is None
    pulling.admit(WeightReaders(num_pullers=1, keys=["k" * 40]))  # it has nothing to do with it
