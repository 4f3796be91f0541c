"""Which calls of vLLM's model runner count as steps."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from prolong.actor.engines.vllm.step_count import StepCount


class Runner:
    def __init__(self) -> None:
        self.execute_model: Callable[..., object] = self.compute

    def compute(self, request: SimpleNamespace, between: str | None = None) -> str:
        return f"{request.total_num_scheduled_tokens} {between}"


def test_a_step_without_a_token_is_none() -> None:
    """vLLM runs those while it has requests that it cannot schedule."""
    runner = Runner()
    counted = StepCount(runner)
    answers = [runner.execute_model(SimpleNamespace(total_num_scheduled_tokens=num), "x") for num in (3, 0, 1)]
    assert answers == ["3 x", "0 x", "1 x"]
    assert counted.num_steps == 2
