"""Verifier pools for tests: started, closed whatever happens, and never waited for longer than a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from prolong.verifiers.workers.local_pool import LocalPool


@asynccontextmanager
async def running(workers: int = 1, timeout_s: float = 20.0, **options: Any) -> AsyncIterator[LocalPool]:
    """A pool that is started; its workers may not be ready yet."""
    pool = LocalPool(workers, timeout_s, **options)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def run(scenario: Callable[[], Awaitable[None]], timeout_s: float = 150.0) -> None:
    """Run a test's coroutine to its end. Raises TimeoutError."""
    asyncio.run(asyncio.wait_for(scenario(), timeout_s))
