"""Counts the steps of vLLM's model runner, in the process of the worker: whether an engine hangs shows there alone.

Our scheduler tells nothing of a rollout before it has ended, which may take hours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class StepRequest(Protocol):
    """The part of vLLM's SchedulerOutput that says whether there is anything to compute."""

    total_num_scheduled_tokens: int


class StepRunner(Protocol):
    """The part of vLLM's model runner that computes a step."""

    execute_model: Callable[..., object]


class StepCount:
    """The steps of one model runner since it was made."""

    def __init__(self, runner: StepRunner) -> None:
        self.num_steps = 0
        self._execute = runner.execute_model
        runner.execute_model = self._counted

    def _counted(self, request: StepRequest, *arguments: object, **named: object) -> object:
        output = self._execute(request, *arguments, **named)
        self.num_steps += request.total_num_scheduled_tokens > 0
        return output
