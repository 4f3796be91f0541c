"""The pool of verifier workers that a configuration asks for. This is the way into the room.

make_pool --> LocalPool (workers here), or SharedPool (the same, and `prolong verifier` processes on other hosts)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Protocol

from ...common.config.trees import judge_config
from ...common.config.verifiers import VerifiersConfig
from ...common.types import FinishReason, Prompt, Verdict
from ..services.served import SERVED
from .local_pool import LocalPool
from .shared_pool import SharedPool


class VerifierPool(Protocol):
    """Judges completions. One pool belongs to one event loop: `start`, any number of `verify` at a time, `close`."""

    @property
    def counters(self) -> Counter[str]:
        """Events by name, for metrics; they only grow."""
        ...

    @property
    def broken(self) -> bool:
        """Whether it will never judge anything again."""
        ...

    async def start(self) -> None:
        """Start workers and connections; waits for neither."""
        ...

    async def usable(self) -> None:
        """Wait until a worker is ready. Raises as `verify` does."""
        ...

    async def verify(
        self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes = b""
    ) -> Verdict:
        """Judge one completion; every call ends in exactly one verdict, whose reward is None if the verifier failed twice.

        `completion_ids` ([T] int32) go to the user's verifiers. Raises UserError for an unknown verifier or one that cannot
        work on this machine, VerifierFailure when no worker starts or the pool is closed.
        """
        ...

    async def close(self) -> None:
        """End all workers and connections; verdicts that are still awaited are cancelled."""
        ...


async def check_own_verifiers(cfg: VerifiersConfig) -> None:
    """Raise ConfigError unless a worker can import the modules of `verifiers.own`. Starts no worker where it names none.

    Functions that the caller serves itself are left out: it need not serve them yet.
    """
    own = {name: target for name, target in cfg.own.items() if not target.startswith(SERVED)}
    if not own:
        return
    pool = make_pool(replace(cfg, hosts=[], workers=1, own=own))
    await pool.start()
    try:
        await pool.usable()
    finally:
        await pool.close()


def make_pool(cfg: VerifiersConfig, *, preload: tuple[str, ...] = ()) -> VerifierPool:
    """The pool that the configuration asks for, not started.

    preload: verifiers whose libraries the workers import at their start. Raises ConfigError.
    """
    local = LocalPool(
        cfg.workers,
        cfg.timeout_s,
        preload=preload,
        own=cfg.own,
        judge=judge_config(cfg),
        allow_unsafe_code=cfg.allow_unsafe_code,
    )
    return SharedPool(local, cfg.hosts, keys=cfg.keys) if cfg.hosts else local
