"""Weight updates one at a time: broadcast or pulled, the newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prolong.actor.stats import ActorStats
from prolong.actor.updates import WeightUpdates, check_dtype
from prolong.common.errors import ConfigError, WeightsError
from prolong.common.messages import UpdateWeights, WeightsApplied
from prolong.common.types import BucketSpec, Manifest, Rendezvous, TensorSpec
from prolong.common.weights.pull.store import Superseded

from tests.support.scripted_pulls import NOTHING, SHARED, ScriptedPulls, pulled_update

pytestmark = pytest.mark.timeout(120)


class Loader:
    """Takes what it is given at once, or when `may_load` is set; raises `errors` first, one for each update."""

    def __init__(self) -> None:
        self.paused_s = 0.0
        self.loaded: list[tuple[int, str]] = []  # version, transport
        self.num_superseded = 0
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.errors: list[WeightsError] = []

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        await self.may_load.wait()
        if self.errors:
            raise self.errors.pop()
        self.loaded.append((update.version, update.rendezvous.transport))
        self.paused_s += 0.5
        return [update.version]

    def supersede(self) -> None:
        self.num_superseded += 1


class Case:
    """Updates over scripted pulls, and the task that applies them."""

    def __init__(self) -> None:
        self.loader, self.pulls, self.stats = Loader(), ScriptedPulls(), ActorStats(1.0)
        self.sent: asyncio.Queue[WeightsApplied] = asyncio.Queue()
        self.updates = WeightUpdates(self.loader, self.pulls, self.stats, self.sent.put_nowait, timeout_s=1.0)
        self.task: asyncio.Task[None] | None = None

    def offer(self, update: UpdateWeights) -> None:
        if self.updates.offer(update):
            assert self.task is None or self.task.done()
            self.task = asyncio.create_task(self.updates.apply_all())

    async def idle(self) -> None:
        assert self.task is not None
        await self.task
        assert self.sent.empty()
        assert not self.updates.busy


def told(story: Callable[[Case], Awaitable[None]]) -> Case:
    async def tell() -> Case:
        case = Case()
        await story(case)
        return case

    return asyncio.run(tell())


def broadcast_update(version: int) -> UpdateWeights:
    return UpdateWeights(
        generation=1,
        version=version,
        epoch=3,
        member=0,
        num_members=1,
        rendezvous=Rendezvous(transport="collective", address=b""),
        manifest=NOTHING,
    )


async def a_pull(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    assert not case.updates.busy  # nobody depends on it
    assert case.updates.generation == -1
    case.pulls.end()
    applied = await case.sent.get()
    assert (applied.version, applied.generation, applied.epoch) == (4, 1, -1)
    assert (applied.checksums, applied.error, applied.num_bytes, applied.pull_s) == ([4], "", 5, 0.25)
    await case.idle()


def test_pulled_weights_are_loaded_out_of_shared_memory_and_acknowledged_with_bytes_and_seconds() -> None:
    case = told(a_pull)
    assert case.loader.loaded == [(4, SHARED.transport)]
    assert case.updates.generation == 1
    numbers = case.stats.snapshot()
    assert (numbers["pulls"], numbers["weight_updates"], numbers["pull_s"], numbers["weights_s"]) == (1, 1, 0.25, 0.5)
    assert numbers["load_s"] > 0


async def newer_ones_in_a_pull(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    for version in (5, 6, 7):
        case.offer(pulled_update(version))
    case.pulls.end()
    assert (await case.sent.get()).version == 4
    assert await case.pulls.asked.get() == 7
    case.pulls.end()
    assert (await case.sent.get()).version == 7
    await case.idle()


def test_a_pull_goes_on_when_newer_versions_are_offered_and_the_newest_comes_next() -> None:
    case = told(newer_ones_in_a_pull)
    assert case.pulls.num_given_up == 0
    assert [version for version, _ in case.loader.loaded] == [4, 7]


async def the_same_again(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    case.offer(pulled_update(4))  # the buffer has had no answer for a while
    case.pulls.end()
    assert (await case.sent.get()).num_bytes == 5
    await case.idle()
    case.offer(pulled_update(4, "relay", "learner"))  # a buffer that was restarted
    again = await case.sent.get()
    assert (again.version, again.checksums, again.num_bytes) == (4, [4], 0)
    await case.idle()
    assert case.loader.loaded == [(4, "shared")]
    case.offer(pulled_update(4))  # it does not believe that
    await case.pulls.asked.get()
    case.pulls.end()
    assert (await case.sent.get()).checksums == [4]
    await case.idle()


def test_weights_that_are_held_are_acknowledged_again_and_loaded_again_when_that_is_not_believed() -> None:
    assert told(the_same_again).loader.loaded == [(4, "shared")] * 2


async def the_same_again_after_an_error(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    case.offer(pulled_update(4))
    case.pulls.end(WeightsError("no source answers"))
    failed = await case.sent.get()
    assert (failed.error, failed.checksums, failed.num_bytes) == ("no source answers", [], 0)
    await case.pulls.asked.get()
    case.pulls.end()
    assert (await case.sent.get()).error == ""
    await case.idle()


def test_a_pull_that_failed_is_reported_and_tried_again_with_the_next_offer() -> None:
    case = told(the_same_again_after_an_error)
    assert case.stats.counts["failed_updates"] == 1
    assert case.updates.generation == 1


async def superseded(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    case.pulls.end(Superseded(6))
    await case.idle()  # no answer: the offer of version 6 is on its way
    case.offer(pulled_update(6))
    await case.pulls.asked.get()
    case.pulls.end()
    assert (await case.sent.get()).version == 6
    await case.idle()


def test_a_pull_that_comes_too_late_waits_for_the_next_offer() -> None:
    case = told(superseded)
    assert case.stats.counts["superseded_pulls"] == 1
    assert "failed_updates" not in case.stats.counts


@pytest.mark.parametrize(
    "newer",
    [
        pulled_update(5, "relay-2", "learner"),  # another place in the tree
        pulled_update(4, "learner"),  # the same bytes, without the relay that does not answer
        pulled_update(3, "relay", "learner"),  # a learner that started again from an older version
        pulled_update(4, "relay", "learner", catalog=99),  # one that made version 4 again
        pulled_update(5, "relay", "learner", generation=2),  # another history
        broadcast_update(5),
    ],
    ids=["moved", "without relay", "older", "again", "generation", "broadcast"],
)
def test_a_pull_that_may_wait_in_vain_is_given_up_for_the_newer_offer(newer: UpdateWeights) -> None:
    async def story(case: Case) -> None:
        case.offer(pulled_update(4, "relay", "learner"))
        await case.pulls.asked.get()
        case.offer(newer)
        if newer.epoch < 0:
            assert await case.pulls.asked.get() == newer.version
            case.pulls.end()
        assert (await case.sent.get()).checksums == [newer.version]
        await case.idle()

    case = told(story)
    assert case.pulls.num_given_up == 1
    assert case.stats.counts["given_up_pulls"] == 1
    assert "failed_updates" not in case.stats.counts  # nothing failed, and the buffer hears nothing of it


async def a_newer_one_while_pulled_weights_are_loaded(case: Case) -> None:
    case.loader.may_load.clear()
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    case.pulls.end()
    before = case.loader.num_superseded
    case.offer(pulled_update(5))
    assert case.loader.num_superseded == before
    case.loader.may_load.set()
    assert (await case.sent.get()).checksums == [4]
    assert await case.pulls.asked.get() == 5
    case.pulls.end()
    assert (await case.sent.get()).checksums == [5]


def test_weights_that_were_pulled_are_loaded_even_if_newer_ones_are_there() -> None:
    told(a_newer_one_while_pulled_weights_are_loaded)


async def a_newer_one_in_a_broadcast(case: Case) -> None:
    case.loader.may_load.clear()
    case.offer(broadcast_update(4))
    await asyncio.sleep(0)
    assert case.updates.busy
    case.loader.errors.append(WeightsError("superseded"))
    case.offer(broadcast_update(5))
    assert case.loader.num_superseded == 2
    case.loader.may_load.set()
    assert (await case.sent.get()).error == "superseded"
    assert (await case.sent.get()).epoch == 3
    await case.idle()


def test_a_broadcast_ends_for_a_newer_one_and_others_depend_on_it() -> None:
    case = told(a_newer_one_in_a_broadcast)
    assert case.loader.loaded == [(5, "collective")]
    assert case.stats.snapshot()["load_s"] == 0


async def cancelled(case: Case) -> None:
    case.offer(pulled_update(4))
    await case.pulls.asked.get()
    assert case.task is not None
    case.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await case.task
    assert case.sent.empty()


def test_cancelling_reaches_the_pull() -> None:
    assert told(cancelled).pulls.num_cancelled == 1


def update_in(*dtypes: str) -> Manifest:
    tensors = [TensorSpec(name=f"t{i}", dtype=dtype, shape=[1], offset=16 * i) for i, dtype in enumerate(dtypes)]
    return Manifest(buckets=[BucketSpec(num_bytes=16 * len(dtypes), tensors=tensors)])


def test_weights_of_another_dtype_than_the_engines_are_refused_with_both() -> None:
    """`model.dtype=auto` may be settled differently on two hosts: vLLM would cast what arrives without a word."""
    check_dtype(update_in("bfloat16", "float32"), "bfloat16")
    with pytest.raises(
        ConfigError, match=r"model.dtype = float32: the learner's weights are bfloat16; give learner and actors"
    ):
        check_dtype(update_in("bfloat16", "bfloat16"), "float32")
