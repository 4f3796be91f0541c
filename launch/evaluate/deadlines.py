"""The deadlines of an evaluation: an engine that hangs ends it with an error.

    it starts          launch.first_group_s; vLLM blocks the event loop meanwhile, and waits for its process without end
    it takes weights   weights.timeout_s for each bucket and each of OTHER_PHASES
    it generates       buffer.lease_s for a step: after that time an actor counts as stuck, too (docs/monitoring.md)

Verdicts have the deadlines of the pool (verifiers/workers/).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from time import monotonic
from types import FrameType
from typing import TypeVar

from ...actor.engines.api import Engine
from ...actor.stats import ActorStats
from ...common.errors import DeadlineExceeded
from ...common.signals import Interrupted

T = TypeVar("T")
LOOP_S = 1.0  # from the deadline until an event loop that did not turn is interrupted
OTHER_PHASES = 6  # of an update beside its buckets: the join has one and a half; pause, load and resume have one each
# at the number of steps, within the time that one may take. So a stop of this process (Ctrl-Z) costs one look, and no more
LOOKS = 10
END_S = 10.0  # for work that is cancelled


@contextlib.asynccontextmanager
async def within(limit_s: float, late: DeadlineExceeded, *, blocking: bool = False) -> AsyncIterator[None]:
    """Raise `late` when the block takes longer: its task is cancelled.

    blocking: the block holds the event loop up, and is interrupted wherever it is. Only in the main thread.
    """
    deadline = asyncio.timeout(limit_s)
    try:
        async with deadline:
            with _alarm(limit_s + LOOP_S, late, deadline.expired) if blocking else contextlib.nullcontext():
                yield
    except TimeoutError:
        if deadline.expired():
            raise late from None
        raise


@contextlib.contextmanager
def _alarm(limit_s: float, late: DeadlineExceeded, is_ending: Callable[[], bool]) -> Iterator[None]:
    """Raise `late` in the block, by SIGALRM, unless it is ending by itself. An alarm that was set before goes on."""

    def ring(number: int, frame: FrameType | None) -> None:
        if not is_ending():
            raise Interrupted

    former, began_s = signal.signal(signal.SIGALRM, ring), monotonic()
    left_s, repeat_s = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except Interrupted:
        raise late from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (monotonic() - began_s), 0.001), repeat_s)


async def unless_hung(work: Coroutine[None, None, T], engine: Engine, stats: ActorStats, limit_s: float) -> T:
    """The result of `work`, which waits for the engine. `stats`: of the worker that gives it tickets.

    Raises DeadlineExceeded when the engine makes no step for `limit_s` while it has rollouts; `work` is cancelled then.
    """
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_watch(engine, stats, limit_s))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            watching.result()
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait([working, watching], timeout=END_S)


async def _watch(engine: Engine, stats: ActorStats, limit_s: float) -> None:
    """Return never. Raises DeadlineExceeded, and ProlongError when the engine died."""
    asked: asyncio.Future[int] | None = None
    steps = silent = 0
    try:
        while silent < LOOKS:
            # a question that is not answered stays asked: a long step answers it late
            asked = asked or asyncio.ensure_future(engine.num_steps())
            await asyncio.sleep(limit_s / LOOKS)
            seen = asked.result() if asked.done() else steps
            asked = None if asked.done() else asked
            silent = silent + 1 if stats.in_flight and seen == steps else 0
            steps = seen
    finally:
        if asked is not None:
            asked.cancel()
    raise DeadlineExceeded(
        f"the engine hangs: no step for {limit_s:g} s while it had {stats.in_flight:,} rollouts, after {steps:,} steps; "
        "expected one within buffer.lease_s. What was sampled is kept: give the command again for the rest, with a larger "
        "buffer.lease_s if a step takes that long"
    )
