"""Runs in a foreign Python environment: `PYTHON -I environment_host.py TASKSET CONFIG_JSON`. Imports nothing of prolong.

Loop: consumes one JSON line {"prompt", "completion", "data"} at a time from standard input; blocks on it; answers one line,
{"reward", "metrics"} or {"error"}; stops at the end of standard input. The environment's own prints go to standard error.
Written for verifiers 0.4 (https://pypi.org/project/verifiers): Taskset, Task.score(trace).
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import sys
from typing import Any


class LoadedTaskset:
    """One taskset of `verifiers`."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
        from verifiers.v1.graph import MessageNode  # pyright: ignore[reportMissingImports]
        from verifiers.v1.trace import AgentInfo, TraceTask  # pyright: ignore[reportMissingImports]
        from verifiers.v1.utils.loaders import taskset_config_type  # pyright: ignore[reportMissingImports]

        self._vf, self._parts = vf, (MessageNode, AgentInfo, TraceTask)
        taskset = vf.load_taskset(taskset_config_type(name)(id=name, **config))
        self._task_type, self._task_config = type(taskset).task_type(), getattr(taskset.config, "task", None)

    async def judge(self, prompt: str, completion: str, data: dict[str, Any]) -> dict[str, Any]:
        """Reward and metrics of a completion, as the only turn of a trace. Raises whatever the environment raises."""
        node, agent, trace_task = self._parts
        vf = self._vf
        task = self._task_type(self._task_type.data_type()(**{"prompt": prompt, **data}), self._task_config)
        for reward in task.hooks("reward"):
            runtime = inspect.signature(reward).parameters.get("runtime")
            if runtime is not None and runtime.default is inspect.Parameter.empty:
                raise RuntimeError(f"reward {reward.__name__} needs a runtime of its library, which is not offered here")
        asked = node(message=vf.UserMessage(content=prompt))
        said = node(parent=0, message=vf.AssistantMessage(content=completion), sampled=True)
        trace = vf.Trace(
            task=trace_task(type=type(task).__name__, data=task.data), agent=agent(config=vf.AgentConfig()), nodes=[asked, said]
        )
        await task.score(trace)
        if not trace.rewards or None in trace.rewards.values() or not math.isfinite(trace.reward):
            raise RuntimeError(f"it gave no reward: {trace.rewards}")
        numbers = {name: number for name, number in trace.metrics.items() if number is not None and math.isfinite(number)}
        return {"reward": trace.reward, "metrics": numbers}


def main(name: str, config: str) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # from here on, prints go to standard error

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        environment = LoadedTaskset(name, json.loads(config))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error!s:.500}"})
        raise
    say({"ready": name})
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            try:
                say(runner.run(environment.judge(**json.loads(line))))
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error!s:.500}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
