"""Verifier pools for tests: started, always closed, and never waited for longer than a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from prolong.verifiers.workers.local_pool import LocalPool

RunWithPool = Callable[[Callable[[LocalPool], Coroutine[Any, Any, None]]], None]


@asynccontextmanager
async def running(workers: int = 1, timeout_s: float = 20.0, **options: Any) -> AsyncIterator[LocalPool]:
    """A started pool, whose workers may not be ready yet."""
    pool = LocalPool(workers, timeout_s, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def run(scenario: Callable[[], Awaitable[None]], timeout_s: float = 280.0) -> None:
    """Run a test's coroutine to its end. Raises TimeoutError."""
    asyncio.run(asyncio.wait_for(scenario(), timeout_s))


@contextmanager
def shared_pool(workers: int = 1, timeout_s: float = 20.0, **options: Any) -> Iterator[RunWithPool]:
    """A pool for several tests, one after the other; yields a function that runs a test's coroutine with it."""
    with asyncio.Runner() as runner:
        pool = LocalPool(workers, timeout_s, **options)
        runner.run(pool.start())

        def run_with_pool(scenario: Callable[[LocalPool], Coroutine[Any, Any, None]]) -> None:
            runner.run(asyncio.wait_for(scenario(pool), 280.0))

        try:
            yield run_with_pool
        finally:
            runner.run(pool.close())
