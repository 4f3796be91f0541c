"""What an actor says when vLLM does not start: a refused configuration is the user's mistake, anything later may pass."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest
from prolong.actor.engines.vllm import engine as engine_module
from prolong.actor.engines.vllm.engine import VllmEngine
from prolong.actor.engines.vllm.start_failure import first_error
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.errors import ModelError, ProlongError
from prolong.launch.local.repeated_error import last_error

OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.1 GiB of which 0.1 is free."
)
LOG = f"""
INFO 11-30 00:40:01 [core.py:99] something else went well
(Worker_TP1 pid=12) ERROR 11-30 00:40:12 [multiproc_executor.py:871] WorkerProc failed to start.
(Worker_TP1 pid=12) ERROR 11-30 00:40:12 [multiproc_executor.py:871] Traceback (most recent call last):
(Worker_TP1 pid=12) ERROR 11-30 00:40:12 [multiproc_executor.py:871]   File "/x/gpu_worker.py", line 300, in init_device
(Worker_TP1 pid=12) ERROR 11-30 00:40:12 [multiproc_executor.py:871] {OUT_OF_MEMORY}
(EngineCore pid=11) ERROR 11-30 00:40:13 [core.py:1100] EngineCore failed to start.
(EngineCore pid=11) ERROR 11-30 00:40:13 [core.py:1100] Traceback (most recent call last):
(EngineCore pid=11) ERROR 11-30 00:40:13 [core.py:1100] Exception: WorkerProc initialization failed due to an exception.
Traceback (most recent call last):
Exception: WorkerProc initialization failed due to an exception.
"""
VAGUE = "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}"


def test_the_first_process_that_failed_names_the_cause() -> None:
    assert first_error(LOG) == OUT_OF_MEMORY
    assert first_error("an Error: that no traceback leads to\n") == ""


class Config:
    """vLLM's configuration of an engine on a GPU."""

    device_config = SimpleNamespace(device_type="cuda")
    scheduler_config = SimpleNamespace(async_scheduling=True, scheduler_cls=None)


def start(monkeypatch: pytest.MonkeyPatch, *, refused: Exception | None = None, fails: Exception | None = None) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    def create_engine_config(_: Any) -> Any:
        if refused is not None:
            raise refused
        return Config()

    async def started(*_: Any) -> Any:
        os.write(2, LOG.encode())
        raise fails or AssertionError

    monkeypatch.setattr(AsyncEngineArgs, "create_engine_config", create_engine_config)
    monkeypatch.setattr(VllmEngine, "_started", started)
    monkeypatch.setattr(engine_module, "set_environment", lambda _: None)
    monkeypatch.setattr(engine_module, "announce_parent", lambda: None)
    asyncio.run(VllmEngine.start(ModelConfig(path="m"), ActorConfig(), 0, []))


@pytest.mark.parametrize("error", [ValueError("no head of size 12"), OSError("no config.json")])
def test_a_refused_configuration_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(ModelError, match=str(error)) as caught:
        start(monkeypatch, refused=error)
    assert caught.value.exit_code == 2


def test_an_engine_that_does_not_start_may_be_started_again_and_says_what_its_process_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProlongError, match=r"did not start: torch\.OutOfMemoryError: CUDA out of memory") as caught:
        start(monkeypatch, fails=RuntimeError(VAGUE))
    assert caught.value.exit_code == 1
    # memory that is taken may be free at the next start
    assert last_error([f"prolong actor: {caught.value}"]) is None
    capfd.readouterr()


def test_an_engine_that_fails_for_the_same_reason_twice_is_known_to_the_supervisor() -> None:
    hopeless = last_error(["prolong actor: vLLM's engine did not start: ValueError: No memory for the cache blocks. 7"])
    again = last_error(["prolong actor: vLLM's engine did not start: ValueError: No memory for the cache blocks. 8"])
    assert hopeless is not None
    assert hopeless.repeats(again)
