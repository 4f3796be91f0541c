"""The ends of the collective: which group carries which version. The contract itself: test_transport_contract.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import pytest
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.weights import collective
from prolong.common.weights.buckets import PackedWeights, fill_bucket, plan_buckets
from prolong.common.weights.collective import (
    CollectiveActorEnd,
    CollectiveLearnerEnd,
    CollectiveRendezvous,
    CollectiveTransport,
)
from prolong.common.weights.collective_group import WeightsGroup

CPU = torch.device("cpu")
PHASE_S = 60.0
MANIFEST = plan_buckets([("weight", "float32", (4,))], 1 << 20)


class CountingGroup(WeightsGroup):
    """Notes (rank, deadline) of every join in this process."""

    joins: list[tuple[int, float]]

    @classmethod
    def join(cls, *args: Any, rank: int, timeout_s: float, **kwargs: Any) -> WeightsGroup:
        CountingGroup.joins.append((rank, timeout_s))
        return super().join(*args, rank=rank, timeout_s=timeout_s, **kwargs)


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    CountingGroup.joins = []
    monkeypatch.setattr(collective, "WeightsGroup", CountingGroup)
    return CountingGroup.joins


@pytest.fixture
def learner() -> Iterator[CollectiveLearnerEnd]:
    end = CollectiveTransport().open_learner_end(WeightsConfig(timeout_s=PHASE_S), CPU)
    yield end
    end.close()


@pytest.fixture
def actor() -> Iterator[CollectiveActorEnd]:
    end = CollectiveTransport().open_actor_end(CPU)
    yield end
    end.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def weights(version: int) -> PackedWeights:
    bucket = fill_bucket(MANIFEST.buckets[0], {"weight": torch.full((4,), float(version))})
    return PackedWeights(version=version, manifest=MANIFEST, buckets=[bucket])


def update_of(learner: CollectiveLearnerEnd, version: int, epoch: int) -> UpdateWeights:
    return UpdateWeights(
        generation=1,
        version=version,
        epoch=epoch,
        member=0,
        num_members=1,
        rendezvous=learner.rendezvous,
        manifest=MANIFEST,
    )


def send(pool: ThreadPoolExecutor, learner: CollectiveLearnerEnd, version: int, epoch: int) -> Future[list[float]]:
    plan = PublishPlan(generation=1, version=version, epoch=epoch, members=["a"])
    return pool.submit(learner.publish, plan, weights(version), PHASE_S)


def receive(actor: CollectiveActorEnd, update: UpdateWeights) -> list[float]:
    with closing(actor.download(update, PHASE_S)) as buckets:
        return [float(flat.view(torch.float32)[0]) for flat in buckets]


def test_versions_of_one_epoch_travel_in_one_group_and_another_epoch_joins_another(
    pool: ThreadPoolExecutor, learner: CollectiveLearnerEnd, actor: CollectiveActorEnd, joins: list[tuple[int, float]]
) -> None:
    for version, epoch in ((0, 1), (1, 1), (2, 1), (3, 2)):
        sent = send(pool, learner, version, epoch)
        assert receive(actor, update_of(learner, version, epoch)) == [float(version)]
        assert len(sent.result()) == 2, "the join and one bucket"
    assert sorted(joins) == [(0, PHASE_S), (0, PHASE_S), (1, 1.5 * PHASE_S), (1, 1.5 * PHASE_S)], "rank 0 gives up first"


def test_a_version_offered_in_an_epoch_whose_broadcast_goes_on_is_refused(
    pool: ThreadPoolExecutor, learner: CollectiveLearnerEnd, actor: CollectiveActorEnd
) -> None:
    """Two broadcasts in one group would take each other's bytes. The first one is not disturbed."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> int:
        with closing(actor.download(update_of(learner, 0, 1), PHASE_S)) as buckets:
            next(buckets)
            begun.set()
            assert go_on.wait(PHASE_S)
            return len(list(buckets))

    held = pool.submit(hold)
    send(pool, learner, 0, 1).result()
    assert begun.wait(PHASE_S)
    with pytest.raises(WeightsError, match="version 1 offered in epoch 1, whose broadcast goes on"):
        receive(actor, update_of(learner, 1, 1))
    go_on.set()
    assert held.result() == 0
    sent = send(pool, learner, 1, 1)
    assert receive(actor, update_of(learner, 1, 1)) == [1.0]
    sent.result()


def test_the_rendezvous_is_where_the_store_listens(learner: CollectiveLearnerEnd) -> None:
    where = msgspec.msgpack.decode(learner.rendezvous.address, type=CollectiveRendezvous)
    assert where.host == "127.0.0.1"
    assert learner.rendezvous.transport == collective.NAME


def test_a_host_of_another_machine_is_refused_when_the_learner_opens_its_end() -> None:
    with pytest.raises(WeightsError, match=r"weights.host = 192\.0\.2\.1: cannot listen there"):
        CollectiveTransport().open_learner_end(WeightsConfig(host="192.0.2.1"), CPU)
