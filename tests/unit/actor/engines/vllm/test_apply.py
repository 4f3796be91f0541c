"""What the vLLM engine makes of a worker's answer to new weights, without vLLM."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prolong.actor.engines.vllm import engine as engine_module
from prolong.actor.engines.vllm.engine import VllmEngine
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError, ProlongError
from prolong.common.messages import UpdateWeights
from prolong.common.types import Manifest, Rendezvous


class Worker:
    """The calls of AsyncLLM that an update makes. `answer`: of the second of two workers; the first has loaded everything."""

    def __init__(self, answer: list[str] | Exception) -> None:
        self._answer = answer
        self.engine_core = SimpleNamespace(pause_scheduler_async=self._pause)

    async def _pause(self, **_: Any) -> None: ...

    async def collective_rpc(self, method: str, **_: Any) -> list[list[str]]:
        assert method == "prolong_load"
        if isinstance(self._answer, Exception):
            raise self._answer
        return [[], self._answer]


class Downloading:
    """The calls of AsyncLLM that a download makes; it ends with the fourth look."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        if method == "prolong_download":
            return [None]
        self.waits.append(args[0])
        return [([7], "")] if len(self.waits) == 4 else [None]


def test_the_engine_never_waits_for_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def receive() -> list[int]:
        engine = VllmEngine(cast("Any", llm), ModelConfig(path="m"), clear_kv=True, stop_ids=[])
        return await engine._receive(update, 5.0)

    llm = Downloading()
    update = UpdateWeights(
        generation=1, version=3, epoch=1, member=0, num_members=1, rendezvous=Rendezvous(transport="t", address=b""),
        manifest=Manifest(buckets=[]),
    )  # fmt: skip
    monkeypatch.setattr(engine_module.asyncio, "sleep", sleep)
    assert asyncio.run(receive()) == [7]
    assert llm.waits == [0.0] * 4
    assert len(slept) == 3
    assert min(slept) >= 0.002


def apply(monkeypatch: pytest.MonkeyPatch, answer: list[str] | Exception) -> None:
    async def receive(*_: Any) -> list[int]:
        return []

    async def update() -> None:
        engine = VllmEngine(cast("Any", Worker(answer)), ModelConfig(path="m"), clear_kv=True, stop_ids=[])
        await engine.apply_weights(cast("UpdateWeights", SimpleNamespace(version=3)), 1.0)

    monkeypatch.setattr(VllmEngine, "_receive", receive)
    asyncio.run(update())


def test_parameters_without_weights_are_a_mistake_of_the_user_which_no_restart_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"took no weights for 1 of its parameters.*experts\.w13") as caught:
        apply(monkeypatch, ["model.experts.w13"])
    assert caught.value.exit_code == 2


def test_an_error_of_the_worker_is_none_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProlongError, match="version 3 arrived but vLLM could not load it: no memory") as caught:
        apply(monkeypatch, RuntimeError("no memory"))
    assert caught.value.exit_code == 1
