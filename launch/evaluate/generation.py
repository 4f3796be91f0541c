"""The rollouts that an evaluation lacks: tickets to the engine, a bounded number at once, and groups into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...actor.rollouts import RolloutWorker
from ...common.types import Group, Ticket
from .deadlines import END_S
from .store import COMMIT_S, EvaluationStore


async def sample_missing(worker: RolloutWorker, store: EvaluationStore, at_once: int, tell: Callable[[Group], None]) -> None:
    """Sample until the store lacks nothing. What has ended is recorded, whatever happens to the rest.

    tell: called with every group. Raises the errors of engine, verifiers and disk.
    """
    tickets = store.missing()
    running: set[asyncio.Task[Group]] = set()
    try:
        while True:
            while len(running) < at_once and (ticket := next(tickets, None)) is not None:
                running.add(asyncio.create_task(_group_of(worker, ticket)))
            if not running:
                return
            ended, running = await asyncio.wait(running, timeout=COMMIT_S, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                store.commit()
            # those that failed come last: what they raise must not lose the others
            for task in sorted(ended, key=_has_failed):
                group = task.result()
                store.add(group)
                tell(group)
    finally:
        store.commit()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=END_S)


def _has_failed(task: asyncio.Task[Group]) -> bool:
    return task.cancelled() or task.exception() is not None


async def _group_of(worker: RolloutWorker, ticket: Ticket) -> Group:
    group = await worker.work(ticket)
    assert isinstance(group, Group), "nobody interrupts an evaluation"
    return group
