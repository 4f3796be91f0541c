"""An actor whose engine sleeps: the real loop, rollouts, verifier workers and statistics of an actor around made-up tokens.

A decode step of r running rollouts takes step_base_s + step_per_rollout_s r seconds of sleep and gives each a token. Steps are
due at times that add up, so that waking late does not make the device slower. `python -m prolong.bench.sleeping_engine` is one
actor of a run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from ..actor.engines.completion import Completion, version_spans
from ..actor.engines.load import EngineLoad
from ..actor.main import work_with
from ..common.config.run_files import load_config
from ..common.config.sections import ActorConfig, Config, ModelConfig
from ..common.errors import RunStopped, root_error
from ..common.messages import UpdateWeights
from ..common.monitoring.vitals import Vitals
from ..common.tokenizer import Tokenizer
from ..common.types import FinishReason, Ticket, rollout_seed

LETTERS = (2, 3)  # token ids of which completions are made (`starved.py` writes the tokenizer)


class EngineDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's work takes, and what its prompts are like."""

    step_base_s: float
    step_per_rollout_s: float
    publish_s: float  # from the order until new weights are here; sampling goes on meanwhile
    pause_s: float  # that sampling pauses for them
    tokens_mean: float  # of a completion
    tokens_spread: float  # of their logarithm


@dataclass(slots=True, eq=False)
class _SleepingRollout:
    index: int
    length: int
    ended: asyncio.Queue[_SleepingRollout]  # of its ticket
    starts: list[tuple[int, int]]  # (version, first token)
    tokens: int = 0


@dataclass(slots=True)
class SleepingEngine:
    """The part of the seam `Engine` that an actor needs that nobody interrupts."""

    device: EngineDevice
    most_running: int
    max_tokens: int
    version: int = -1
    paused_s: float = 0.0
    load: EngineLoad = field(default_factory=EngineLoad)
    _rollouts: list[_SleepingRollout] = field(default_factory=list)
    _has_work: asyncio.Event = field(default_factory=asyncio.Event)
    _runs: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        raise NotImplementedError("a sleeping engine is made of its device: SleepingEngine(device, ...), then begin()")

    def begin(self) -> None:
        """Start to decode, in the running event loop."""
        self._runs.set()
        self._task = asyncio.create_task(self._decode())

    @property
    def num_unfinished(self) -> int:
        return len(self._rollouts)

    async def num_steps(self) -> int:
        return int(self.load.steps)

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        """The ticket's rollouts as they end."""
        ended: asyncio.Queue[_SleepingRollout] = asyncio.Queue()
        mine = [
            _SleepingRollout(index, self._length(ticket, index), ended, [(self.version, 0)])
            for index in range(ticket.sampling.n)
        ]
        self._rollouts += mine
        self._has_work.set()
        try:
            for _ in mine:
                rollout = await ended.get()
                yield rollout.index, _completion(rollout)
        finally:
            self._rollouts = [rollout for rollout in self._rollouts if rollout not in mine]

    def _length(self, ticket: Ticket, index: int) -> int:
        device = self.device
        rng = np.random.default_rng(rollout_seed(ticket.seed, index))
        log = np.log(device.tokens_mean) - device.tokens_spread**2 / 2 + device.tokens_spread * rng.standard_normal()
        return int(np.clip(round(float(np.exp(log))), 1, self.max_tokens))

    async def _decode(self) -> None:
        loop, device = asyncio.get_running_loop(), self.device
        due = loop.time()
        while True:
            if not (self._rollouts and self._runs.is_set()):
                if not self._rollouts:
                    self._has_work.clear()
                await self._has_work.wait()
                await self._runs.wait()
                due = loop.time()
            num_running = min(len(self._rollouts), self.most_running)
            due += device.step_base_s + device.step_per_rollout_s * num_running
            await asyncio.sleep(max(due - loop.time(), 0.0))
            running = self._rollouts[:num_running]
            for rollout in running:
                rollout.tokens += 1
                if rollout.tokens == rollout.length:
                    rollout.ended.put_nowait(rollout)
            self.load.step(len(running), len(running), len(self._rollouts) - len(running))
            self._rollouts = [rollout for rollout in self._rollouts if rollout.tokens < rollout.length]

    async def interrupt(self) -> None:
        self._rollouts.clear()

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """They are on their way for a while, then sampling pauses."""
        await asyncio.sleep(self.device.publish_s)
        self._runs.clear()
        await asyncio.sleep(self.device.pause_s)
        self.paused_s += self.device.pause_s
        self.version = update.version
        for rollout in self._rollouts:
            rollout.starts.append((self.version, rollout.tokens))
        self._runs.set()
        return []

    def supersede(self) -> None:
        """The learner that sleeps publishes one version after the other."""

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _completion(rollout: _SleepingRollout) -> Completion:
    """So many letters; the first one decides about the reward."""
    tokens = np.full(rollout.length, LETTERS[rollout.index % 2], dtype="<i4")
    return Completion(
        token_ids=tokens.tobytes(),
        behaviour_logprobs=np.zeros(rollout.length, dtype="<f4").tobytes(),
        spans=version_spans(rollout.starts, rollout.length),
        finish_reason=FinishReason.length,
    )


async def sleep_as_actor(cfg: Config, name: str, device: EngineDevice) -> None:
    """One actor until the run ends."""
    engine = SleepingEngine(device, cfg.actor.max_num_seqs or cfg.actor.capacity, cfg.sampling.max_tokens)
    engine.begin()
    vitals = Vitals("actor", name, cfg.run.name)
    await work_with(engine, Tokenizer.load(cfg.model.path), cfg, name, "", dtype="", vitals=vitals)


def run_sleeping_actor() -> None:
    """Read the command line, and be an actor until the run ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("name")
    parser.add_argument("device", help="EngineDevice as JSON")
    args = parser.parse_args()
    device = msgspec.json.decode(args.device, type=EngineDevice)
    try:
        asyncio.run(sleep_as_actor(load_config(args.folder / "config.yaml"), args.name, device))
    except BaseExceptionGroup as group:
        if not isinstance(root_error(group), RunStopped):
            raise


if __name__ == "__main__":
    run_sleeping_actor()
