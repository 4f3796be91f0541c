"""An engine that a program starts, without the command line before it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prolong.actor.engines.transformers.engine import TransformersEngine
from prolong.common.config.choices import Device
from prolong.common.config.sections import ActorConfig, ModelConfig

from tests.support.tiny_model import make_tiny_model


def test_an_engine_settles_the_dtype_that_is_auto(tmp_path: Path) -> None:
    model = ModelConfig(path=str(make_tiny_model(tmp_path, tied=True)), max_context=64, device=Device.cpu)

    async def start() -> None:
        engine = await TransformersEngine.start(model, ActorConfig(), 0, [0])
        await engine.close()

    asyncio.run(start())
    assert model.dtype == "float32"
