"""An engine that samples from a model's own weights: they reach it as a learner's do, from host memory, once for each model.

engine = await FedEngine.start(cfg)       before anything else runs in the process
await engine.load(model, version)         the weights of a folder; models of one architecture may follow each other
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import torch

from ...actor.engines.api import Engine
from ...actor.engines.registry import engine_class
from ...common.config.sections import Config, ModelConfig, WeightsConfig
from ...common.errors import DeadlineExceeded
from ...common.messages import PublishPlan, UpdateWeights
from ...common.models import DTYPES, load_model, published_tensors
from ...common.weights.buckets import PackedWeights
from ...common.weights.transports import configured_transport
from ...learner.weights.packer import WeightPacker
from .deadlines import OTHER_PHASES, within


class FedEngine:
    """An engine, and the sending end of a weight transport in this process."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self.engine, self._timeout_s = engine, timeout_s
        weights = WeightsConfig(timeout_s=timeout_s)
        self._end = configured_transport(weights).open_learner_end(weights, torch.device("cpu"))
        self._thread = ThreadPoolExecutor(1, "weights")

    @classmethod
    async def start(cls, cfg: Config, stop_ids: tuple[int, ...]) -> Self:
        """In the main thread. Raises: UserError, ModelError, ProlongError; DeadlineExceeded after `launch.first_group_s`."""
        limit_s = cfg.launch.first_group_s
        late = DeadlineExceeded(
            f"the engine ({cfg.actor.engine.name}) was not ready after {limit_s:g} s: expected within launch.first_group_s. "
            "Nothing is lost: give the command again, with a larger launch.first_group_s if the engine starts that slowly"
        )
        async with within(limit_s, late, blocking=True):
            engine = await engine_class(cfg.actor.engine).start(cfg.model, cfg.actor, cfg.run.seed, stop_ids)
        try:
            return cls(engine, cfg.weights.timeout_s)
        except BaseException:
            await engine.close()
            raise

    async def load(self, model: ModelConfig, version: int) -> None:
        """Give the engine the weights of `model`; versions must grow. Raises: ProlongError, DeadlineExceeded."""
        packed = await asyncio.to_thread(_read, model, version)
        update = UpdateWeights(
            generation=1,
            version=version,
            epoch=1,
            member=0,
            num_members=1,
            rendezvous=self._end.rendezvous,
            manifest=packed.manifest,
        )
        plan = PublishPlan(generation=1, version=version, epoch=1, members=["engine"])
        limit_s = (len(packed.manifest.buckets) + OTHER_PHASES) * self._timeout_s
        late = DeadlineExceeded(
            f"the engine hangs: it did not take the weights of {model.path} within {limit_s:g} s, expected "
            f"weights.timeout_s = {self._timeout_s:g} s for each bucket and phase. What was sampled is kept: give the command "
            "again for the rest, with a larger weights.timeout_s if the engine loads that slowly"
        )
        sent = self._thread.submit(self._end.publish, plan, packed, self._timeout_s)
        async with within(limit_s, late):
            await self.engine.apply_weights(update, self._timeout_s)
            await asyncio.wrap_future(sent)

    async def close(self) -> None:
        """End the engine and its process, also one that hangs."""
        self._end.disconnect()
        # a broadcast that goes on loses its peer, and ends
        await self.engine.close()
        self._thread.shutdown()
        self._end.close()


def _read(model: ModelConfig, version: int) -> PackedWeights:
    """The weights of a folder in the dtype of the engine, packed. Raises: ModelError."""
    dtype = DTYPES[model.dtype]
    causal = load_model(model, dtype=dtype, attention="sdpa")
    tensors = [
        (name, tensor.detach().to(dtype) if isinstance(tensor, torch.nn.Parameter) else tensor)
        for name, tensor in published_tensors(causal)
    ]
    shapes = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors]
    return WeightPacker(shapes, WeightsConfig().bucket_mb << 20).pack(version, tensors)
