"""A machine without vLLM: one sentence that names the other engine."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
from prolong.actor.engines.registry import engine_class
from prolong.common.config.choices import EngineKind
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.errors import UserError


def test_without_vllm_the_actor_says_which_engine_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed here.*actor\.engine=transformers"):
        asyncio.run(engine_class(EngineKind.vllm).start(ModelConfig(path="nowhere"), ActorConfig(), 0, []))
