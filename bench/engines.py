"""What the benches of the actor's engine share: a model of the demo's shape, tickets for it, a learner's end for weights."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..actor.engines.vllm.engine import VllmEngine
from ..common.config.sections import ActorConfig, ModelConfig
from ..common.messages import UpdateWeights
from ..common.types import Prompt, Sampling, Ticket, TicketKind
from ..common.weights.buckets import checksum, fill_bucket, plan_buckets
from ..common.weights.collective import WeightsGroup, WeightsStore
from .learner_step import VOCAB, make_model

TIMEOUT_S = 60.0
MAX_CONTEXT = 128


class Sender:
    """A learner that sends random weights of the model, from a thread on a core of its own."""

    def __init__(self, folder: Path, core: int | None) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.manifest = plan_buckets([(n, t.dtype, t.shape) for n, t in self.weights.items()], 256 << 20)
        self._store = WeightsStore("127.0.0.1", timeout_s=TIMEOUT_S)
        self._thread = ThreadPoolExecutor(1, initializer=os.sched_setaffinity, initargs=(0, os.sched_getaffinity(0)))
        if core is not None:
            self._thread.submit(os.sched_setaffinity, 0, {core}).result()
        self._group: WeightsGroup | None = None

    def offer(self, version: int) -> tuple[UpdateWeights, Future[list[int]]]:
        """What the buffer would tell the actor, and the broadcast that has begun."""
        where = {"store_host": self._store.host, "store_port": self._store.port}
        update = UpdateWeights(generation=1, version=version, epoch=1, rank=1, world_size=2, **where, manifest=self.manifest)
        return update, self._thread.submit(self._send)

    async def push(self, engine: VllmEngine, version: int) -> None:
        """Send and apply one version. Raises AssertionError when something else arrived."""
        update, sent = self.offer(version)
        assert await engine.apply_weights(update, TIMEOUT_S) == await asyncio.wrap_future(sent)

    def _send(self) -> list[int]:
        if self._group is None:
            where = {"generation": 1, "epoch": 1, "rank": 0, "world_size": 2, "timeout_s": TIMEOUT_S}
            self._group = WeightsGroup.join(self._store.host, self._store.port, **where, device=torch.device("cpu"))
        sums = []
        for bucket in self.manifest.buckets:
            flat = fill_bucket(bucket, self.weights)
            self._group.broadcast(flat)
            sums.append(checksum(flat))
        return sums


def make_ticket(ordinal: int, n: int, max_tokens: int) -> Ticket:
    """A ticket with a prompt of 9 tokens."""
    token_ids = np.random.default_rng(ordinal).integers(2, VOCAB, 9).astype("<i4").tobytes()
    return Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=Prompt(uid=str(ordinal), domain="d", task="t", text="", token_ids=token_ids, verifier="none"),
        sampling=Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=max_tokens),
        seed=ordinal,
        generation=1,
        version=0,
        lease_s=600.0,
    )


async def start_engine(folder: Path, *, clear_kv: bool = True) -> VllmEngine:
    """An engine as the demo's actor starts it; nothing stops a rollout before its limit."""
    make_model(folder)
    model = ModelConfig(path=str(folder), max_context=MAX_CONTEXT)
    return await VllmEngine.start(model, ActorConfig(clear_kv=clear_kv), 0, [])


async def generate_forever(engine: VllmEngine, in_flight: int, n: int, max_tokens: int) -> None:
    """Keep `in_flight` rollouts going until cancelled."""
    ordinals = iter(range(1 << 40, 1 << 60))

    async def worker() -> None:
        while True:
            async for _ in engine.generate(make_ticket(next(ordinals), n, max_tokens)):
                pass

    async with asyncio.TaskGroup() as workers:
        for _ in range(in_flight // n):
            workers.create_task(worker())
