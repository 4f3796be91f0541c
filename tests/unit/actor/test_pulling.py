"""Pulls into shared memory, from a server of this process: what an engine then maps, and what is served to others."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
import torch
from prolong.actor.pulling import Pulling, check_serving_host
from prolong.common.config.sections import BufferConfig, Config, WeightsConfig
from prolong.common.errors import ConfigError, WeightsError
from prolong.common.messages import UpdateWeights, WeightReaders
from prolong.common.types import Rendezvous
from prolong.common.weights.pull.chunks import CHUNK_BYTES
from prolong.common.weights.shared import SharedActorEnd

from tests.support.pulls import Learner, make_manifest, open_memory

pytestmark = pytest.mark.timeout(120)
HANG_S = 60.0


@pytest.fixture
def learner() -> Iterator[Learner]:
    with Learner(chunk_bytes=CHUNK_BYTES) as learner:
        yield learner


@pytest.fixture
def pulling() -> Iterator[Pulling]:
    pulling = Pulling(WeightsConfig(), None, serves=False)
    yield pulling
    pulling.close()


def engine_gets(rendezvous: Rendezvous, update: UpdateWeights) -> list[torch.Tensor]:
    """What an engine maps, copied."""
    with closing(SharedActorEnd().download(msgspec.structs.replace(update, rendezvous=rendezvous), 1.0)) as buckets:
        return [flat.clone() for flat in buckets]


def is_bit_identical(got: list[torch.Tensor], learner: Learner) -> bool:
    return all(map(torch.equal, got, learner.buckets))


def test_an_engine_maps_what_the_learner_has_version_after_version(learner: Learner, pulling: Pulling) -> None:
    async def pull_three() -> None:
        for _ in range(3):
            update = learner.step()
            pulled = await pulling.pull(update)
            assert pulled.num_bytes > 0
            assert is_bit_identical(engine_gets(pulled.rendezvous, update), learner)

    asyncio.run(pull_three())
    assert pulling.counters()["weights/pulled_bytes"] > 0


def test_the_memory_is_refused_while_the_next_pull_writes_it(learner: Learner, pulling: Pulling) -> None:
    async def pull_and_fail() -> None:
        first = learner.step()
        pulled = await pulling.pull(first)
        engine_gets(pulled.rendezvous, first)
        learner.server.close()
        second = asyncio.create_task(pulling.pull(learner.step()))
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
        update = learner.step()
        await pulling.pull(update)
        assert pulling.store is not None
        pulling.store.buckets[0][100] ^= 1
        pulled = await pulling.pull(update)
        assert is_bit_identical(engine_gets(pulled.rendezvous, update), learner)
        assert pulling.counters()["weights/damaged_chunks"] == 1
        assert pulled.num_bytes > 0

    asyncio.run(pull_twice())


def test_a_cancelled_pull_ends_its_thread(learner: Learner, pulling: Pulling) -> None:
    async def cancel() -> None:
        learner.server.close()
        task = asyncio.create_task(pulling.pull(learner.step()))
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    # asyncio.run joins the thread: it would not return for an hour
    asyncio.run(cancel())


def test_a_pull_that_is_cancelled_before_its_thread_reached_the_puller_is_given_up(
    learner: Learner, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a large store holds takes a thread seconds to check, before it asks anybody."""
    entered, may_go_on, ended = threading.Event(), threading.Event(), queue.Queue[Exception]()
    pull = pulling._puller.pull

    def held(*args: Any) -> Any:
        entered.set()
        assert may_go_on.wait(HANG_S)
        try:
            return pull(*args)
        except WeightsError as error:
            ended.put(error)
            raise

    monkeypatch.setattr(pulling._puller, "pull", held)

    async def cancel() -> None:
        learner.server.close()
        task = asyncio.create_task(pulling.pull(learner.step()))
        assert await asyncio.to_thread(entered.wait, HANG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()
        try:
            assert "before it began" in str(await asyncio.to_thread(ended.get, timeout=HANG_S))
        finally:
            pulling.close()

    asyncio.run(cancel())


def test_weights_of_another_manifest_get_memory_of_their_own(learner: Learner, pulling: Pulling) -> None:
    async def pull_both() -> None:
        first = learner.step()
        before = await pulling.pull(first)
        with Learner(make_manifest(1 << 12), chunk_bytes=CHUNK_BYTES) as other:
            update = other.step()
            after = await pulling.pull(update)
            assert is_bit_identical(engine_gets(after.rendezvous, update), other)
        with pytest.raises(WeightsError):
            engine_gets(before.rendezvous, first)

    asyncio.run(pull_both())


def test_a_process_that_serves_passes_on_what_it_pulled(learner: Learner, pulling: Pulling) -> None:
    relay = Pulling(WeightsConfig(), None, serves=True)
    assert relay.source is not None

    async def pull_through() -> None:
        assert relay.source is not None
        relay.admit(WeightReaders(num_pullers=1, keys=[]))
        for _ in range(2):
            from_learner = learner.step()
            update = learner.update(relay.source, learner.server.source)
            passed_on = asyncio.create_task(pulling.pull(update))  # it waits there until the relay has the chunks
            await relay.pull(from_learner)
            pulled = await passed_on
            assert is_bit_identical(engine_gets(pulled.rendezvous, update), learner)

    try:
        asyncio.run(pull_through())
        assert relay.counters()["weights/sent_bytes"] > 0
    finally:
        relay.close()


def test_only_a_process_that_serves_names_a_source(pulling: Pulling) -> None:
    assert pulling.source is None
    pulling.admit(WeightReaders(num_pullers=1, keys=["k" * 40]))  # it has nothing to do with it


def test_an_address_that_other_hosts_cannot_reach_is_refused_before_anything_is_served() -> None:
    cfg = Config(buffer=BufferConfig(address="tcp://10.0.0.1:5710"), weights=WeightsConfig(transport="pull"))
    with pytest.raises(
        ConfigError, match=r"weights.host = '127.0.0.1': expected this machine's address as other hosts reach it"
    ):
        check_serving_host(cfg)
    cfg.weights.host = "10.0.0.2"
    check_serving_host(cfg)
    check_serving_host(Config())  # a run of one machine


def test_a_process_that_stops_pulling_lets_go_of_its_memory(learner: Learner) -> None:
    gc.collect()
    before = open_memory()
    pulling = Pulling(WeightsConfig(), None, serves=False)
    asyncio.run(pulling.pull(learner.step()))
    assert open_memory() > before
    pulling.close()
    pulling.close()
    # of the two descriptors one is that of the mapping, and goes with it
    del pulling
    gc.collect()
    assert open_memory() <= before
