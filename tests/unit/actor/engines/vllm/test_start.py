"""A machine without vLLM, and an engine that starts only in part."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from prolong.actor.engines.registry import engine_class
from prolong.actor.engines.vllm.engine import VllmEngine
from prolong.common.config.choices import EngineKind
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.errors import UserError


def test_without_vllm_the_actor_says_which_engine_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed here.*actor\.engine=transformers"):
        asyncio.run(engine_class(EngineKind.vllm).start(ModelConfig(path="nowhere"), ActorConfig(), 0, []))


class HalfStarted:
    """The calls of AsyncLLM that a start makes; its worker cannot be prepared."""

    engine_core = SimpleNamespace(resources=SimpleNamespace(engine_manager=None))

    def __init__(self) -> None:
        self.shut_down: list[float] = []

    async def collective_rpc(self, method: str, **_: object) -> None:
        raise RuntimeError(f"{method} failed")

    def shutdown(self, timeout: float) -> None:
        self.shut_down.append(timeout)


def test_the_process_of_an_engine_whose_start_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that is told of a deadline goes on without it."""
    llm, module = HalfStarted(), ModuleType("async_llm")
    module.AsyncLLM = SimpleNamespace(from_vllm_config=lambda *_, **__: llm)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.async_llm", module)
    config = cast("Any", SimpleNamespace(device_config=SimpleNamespace(device_type="cuda")))
    with pytest.raises(RuntimeError, match="prolong_prepare failed"):
        asyncio.run(VllmEngine._started(config, ModelConfig(path="m"), ActorConfig(), []))
    assert llm.shut_down == [1.0]
