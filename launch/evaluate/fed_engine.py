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
from ...common.messages import PublishPlan, UpdateWeights
from ...common.models import DTYPES, load_model, published_tensors
from ...common.weights.buckets import PackedWeights
from ...common.weights.transports import configured_transport
from ...learner.weights.packer import WeightPacker


class FedEngine:
    """An engine, and the sending end of a weight transport in this process."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self.engine, self._timeout_s = engine, timeout_s
        weights = WeightsConfig(timeout_s=timeout_s)
        self._end = configured_transport(weights).open_learner_end(weights, torch.device("cpu"))
        self._thread = ThreadPoolExecutor(1, "weights")

    @classmethod
    async def start(cls, cfg: Config, stop_ids: tuple[int, ...]) -> Self:
        """Raises: UserError, ModelError, ProlongError."""
        engine = await engine_class(cfg.actor.engine).start(cfg.model, cfg.actor, cfg.run.seed, stop_ids)
        try:
            return cls(engine, cfg.weights.timeout_s)
        except BaseException:
            await engine.close()
            raise

    async def load(self, model: ModelConfig, version: int) -> None:
        """Give the engine the weights of `model`; versions must grow. Raises: ProlongError."""
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
        sent = self._thread.submit(self._end.publish, plan, packed, self._timeout_s)
        await self.engine.apply_weights(update, self._timeout_s)
        await asyncio.wrap_future(sent)

    async def close(self) -> None:
        self._end.disconnect()
        self._thread.shutdown()
        await self.engine.close()
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
