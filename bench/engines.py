"""For the benchmarks of engines: a model of the demo's shape, tickets for it, and a learner's end for weights."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..actor.engines.api import Engine
from ..actor.engines.registry import engine_class
from ..common.config.choices import Device, EngineKind
from ..common.config.sections import ActorConfig, ModelConfig, WeightsConfig
from ..common.messages import PublishPlan, UpdateWeights
from ..common.models import DTYPES
from ..common.types import Prompt, Sampling, Ticket, TicketKind
from ..common.weights.transports import configured_transport
from ..learner.weights.packer import WeightPacker
from .learner_step import VOCAB, make_demo_shaped_model

TIMEOUT_S = 60.0
CPU = torch.device("cpu")
MAX_CONTEXT = 128


class Sender:
    """A learner that sends the same weights again and again, from a thread that may have a core of its own."""

    def __init__(self, weights: dict[str, Tensor], core: int | None, device: torch.device = CPU) -> None:
        self.weights = weights
        self._packer = WeightPacker([(name, tensor.dtype, tensor.shape) for name, tensor in weights.items()], 256 << 20)
        cfg = WeightsConfig(timeout_s=TIMEOUT_S)
        self._end = configured_transport(cfg).open_learner_end(cfg, device)
        self._thread = ThreadPoolExecutor(1, initializer=os.sched_setaffinity, initargs=(0, os.sched_getaffinity(0)))
        if core is not None:
            self._thread.submit(os.sched_setaffinity, 0, {core}).result()

    @property
    def num_bytes(self) -> int:
        """Of one update."""
        return sum(bucket.num_bytes for bucket in self._packer.manifest.buckets)

    def offer(self, version: int) -> tuple[UpdateWeights, Future[list[int]]]:
        """The message that the buffer would send to the actor, and the broadcast, which has begun."""
        update = UpdateWeights(
            generation=1,
            version=version,
            epoch=1,
            member=0,
            num_members=1,
            rendezvous=self._end.rendezvous,
            manifest=self._packer.manifest,
        )
        return update, self._thread.submit(self._send, version)

    async def push(self, engine: Engine, version: int) -> None:
        """Send and apply one version. Raises AssertionError when something else arrived."""
        update, sent = self.offer(version)
        assert await engine.apply_weights(update, TIMEOUT_S) == await asyncio.wrap_future(sent)

    def _send(self, version: int) -> list[int]:
        packed = self._packer.pack(version, self.weights.items())
        self._end.publish(PublishPlan(generation=1, version=version, epoch=1, members=["engine"]), packed, TIMEOUT_S)
        sums = packed.checksums()
        self._packer.release(packed)
        return sums


def random_weights(folder: Path, dtype: str, device: torch.device = CPU) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the model whose config.json is in `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return {
        name: torch.randn(parameter.shape, dtype=DTYPES[dtype], device=device).mul_(0.02)
        for name, parameter in model.named_parameters()
    }


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


async def start_engine(folder: Path, kind: EngineKind, *, clear_kv: bool = True) -> Engine:
    """An engine as the demo's actor starts it, without stop tokens: every rollout runs to its limit."""
    make_demo_shaped_model(folder)
    model = ModelConfig(path=str(folder), max_context=MAX_CONTEXT, device=Device.cpu, dtype="float32")
    return await engine_class(kind).start(model, ActorConfig(engine=kind, clear_kv=clear_kv), 0, [])


async def generate_forever(engine: Engine, in_flight: int, n: int, max_tokens: int) -> None:
    """Keep `in_flight` rollouts going until cancelled."""
    ordinals = iter(range(1 << 40, 1 << 60))

    async def worker() -> None:
        while True:
            async for _ in engine.generate(make_ticket(next(ordinals), n, max_tokens)):
                pass

    async with asyncio.TaskGroup() as workers:
        for _ in range(in_flight // n):
            workers.create_task(worker())
