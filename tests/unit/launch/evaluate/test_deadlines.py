"""An engine that hangs ends an evaluation; one that is slow does not, and what has ended is kept."""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from prolong.actor.engines.api import Engine
from prolong.actor.rollouts import RolloutWorker
from prolong.actor.stats import ActorStats
from prolong.common.errors import DeadlineExceeded, ProlongError
from prolong.common.types import Group, Ticket
from prolong.launch.evaluate.deadlines import LOOKS, unless_hung, within
from prolong.launch.evaluate.generation import sample_missing
from prolong.launch.evaluate.store import EvaluationStore

from .test_store import ASKED, PROMPTS, group_of

LIMIT_S = 0.2
SLOW_LIMIT_S = 0.6  # with pauses of a tenth of it between two looks
DEADLINE_S = 30.0
LATE = DeadlineExceeded("too late")


class Steps:
    """The part of an engine that is looked at. `answer`: of each look."""

    def __init__(self, answer: Callable[[], Coroutine[None, None, int]]) -> None:
        self.num_steps = answer


def watched(
    work: Coroutine[None, None, object], answer: Callable[[], Coroutine[None, None, int]], stats: ActorStats, limit_s: float
) -> object:
    async def bounded() -> object:
        return await asyncio.wait_for(unless_hung(work, cast(Engine, Steps(answer)), stats, limit_s), DEADLINE_S)

    return asyncio.run(bounded())


def busy() -> ActorStats:
    stats = ActorStats(0.5)
    stats.started(3)
    return stats


async def standing() -> int:
    return 7


async def silence() -> int:
    await asyncio.Event().wait()
    return 0


@pytest.mark.parametrize(("answer", "steps"), [(standing, 7), (silence, 0)], ids=["no step", "no answer"])
def test_an_engine_that_hangs_is_an_error_and_what_has_ended_is_on_the_disk(
    tmp_path: Path, answer: Callable[[], Coroutine[None, None, int]], steps: int
) -> None:
    stats = busy()

    class Worker:
        async def work(self, ticket: Ticket) -> Group:
            if ticket.ordinal:
                await asyncio.Event().wait()
            return group_of(ticket)

    with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 1)) as store:
        sampling = sample_missing(cast(RolloutWorker, Worker()), store, 8, lambda group: None)
        said = rf"hangs: no step for 0\.2 s while it had 3 rollouts, after {steps} steps; expected one within buffer"
        with pytest.raises(DeadlineExceeded, match=said):
            watched(sampling, answer, stats, LIMIT_S)
    with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 1)) as store:
        assert [ticket.ordinal for ticket in store.missing()] == [1, 2]


def test_an_engine_whose_steps_are_slow_does_not_hang() -> None:
    """It answers between two steps, and each takes three looks."""
    counted = 0

    async def slow() -> int:
        nonlocal counted
        await asyncio.sleep(3 * SLOW_LIMIT_S / LOOKS)
        counted += 1
        return counted

    assert watched(asyncio.sleep(1.5 * SLOW_LIMIT_S, "done"), slow, busy(), SLOW_LIMIT_S) == "done"
    assert counted > 1


def test_an_engine_that_has_nothing_to_do_may_stand() -> None:
    assert watched(asyncio.sleep(3 * LIMIT_S, "done"), standing, ActorStats(0.5), LIMIT_S) == "done"


def test_the_errors_of_the_work_and_of_a_dead_engine_pass_through() -> None:
    async def fails() -> int:
        raise ProlongError("the engine died")

    with pytest.raises(ProlongError, match="the engine died"):
        watched(fails(), standing, busy(), DEADLINE_S)
    with pytest.raises(ProlongError, match="the engine died"):
        watched(silence(), fails, busy(), LIMIT_S)


async def blocks() -> None:
    async with within(LIMIT_S, LATE, blocking=True):
        # as vLLM does while its process starts
        select.select([], [], [], DEADLINE_S)


async def blocks_and_hides_errors() -> None:
    async with within(LIMIT_S, LATE, blocking=True):
        with contextlib.suppress(Exception):
            select.select([], [], [], DEADLINE_S)
        raise AssertionError("it went on")


async def waits() -> None:
    async with within(LIMIT_S, LATE, blocking=True):
        await asyncio.Event().wait()


@pytest.mark.parametrize("start", [blocks, blocks_and_hides_errors, waits])
def test_a_start_that_hangs_is_an_error_whether_it_blocks_the_loop_or_not(
    start: Callable[[], Coroutine[None, None, None]],
) -> None:
    with pytest.raises(DeadlineExceeded, match="too late"):
        asyncio.run(start())


@pytest.fixture
def own_alarm() -> Iterator[Callable[..., object]]:
    """An alarm of the caller's own, which does not ring here: its handler."""

    def ring(*_: object) -> None:
        raise AssertionError("nobody waits that long")

    timer, handler = signal.setitimer(signal.ITIMER_REAL, 10 * DEADLINE_S), signal.signal(signal.SIGALRM, ring)
    yield ring
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def test_an_alarm_that_was_set_before_goes_on(own_alarm: Callable[..., object]) -> None:
    async def quick() -> None:
        async with within(LIMIT_S, LATE, blocking=True):
            pass

    asyncio.run(quick())
    assert signal.getsignal(signal.SIGALRM) is own_alarm
    assert LIMIT_S < signal.getitimer(signal.ITIMER_REAL)[0] <= 10 * DEADLINE_S


def test_a_rollout_that_ended_with_one_that_failed_is_kept(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Worker:
        async def work(self, ticket: Ticket) -> Group:
            # all end in the same turn of the loop
            await gate.wait()
            if ticket.ordinal == 1:
                raise ProlongError("this one failed")
            return group_of(ticket)

    async def sample(store: EvaluationStore) -> None:
        asyncio.get_running_loop().call_soon(gate.set)
        await asyncio.wait_for(sample_missing(cast(RolloutWorker, Worker()), store, 64, lambda group: None), DEADLINE_S)

    # of so many, some come behind the one that failed, in whatever order they are told
    with closing(EvaluationStore(tmp_path, ASKED, PROMPTS, 20)) as store:
        with pytest.raises(ProlongError, match="this one failed"):
            asyncio.run(sample(store))
        assert [ticket.ordinal for ticket in store.missing()] == [1]
