"""Reward functions as other libraries want them written, unmodified, as verifiers: one line each in a module of the user.

    # rewards.py                                                    # recipe.yaml
    from prolong.verifiers.adapters.libraries import from_trl                 verifiers:
    boxed = from_trl(reward_func)                                     own: {boxed: "rewards:boxed"}

They run in a worker (foreign.py). What they raise, and what is no finite number, is a failure of theirs and gives no reward; it
is never a 0. Functions may be `async`. Columns of a dataset are the keys of the prompt's answer object.
Source of the signatures: TRL docs/source/grpo_trainer.md, verl docs/preparation/reward_function.rst, AReaL areal/reward.
"""

from __future__ import annotations

import array
import asyncio
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ...common.errors import UserError
from ..answers.extraction import after_thinking, last_tagged
from ..api import Score, Task, Verifier
from ..logic import reasoning_gym as logic
from .environments import from_verifiers as from_verifiers
from .http import from_http as from_http

MAX_METRICS = 64
MAX_METRIC_NAME = 100  # characters
Judge = Callable[..., Any]


def from_function(judge: Judge) -> Verifier:
    """f(completion, answer) -> reward, or {"score": reward, METRIC: number}; `answer` is the prompt's answer object."""
    return _verifier(lambda task: judge(task.completion, task.answer))


def from_trl(judge: Judge, *, conversational: bool = False) -> Verifier:
    """f(prompts, completions, completion_ids, **columns) -> [reward or None]; called with lists of one.

    conversational: prompts and completions are lists of messages, {"role", "content"}. What log_metric hears becomes a metric.
    """

    def call(task: Task) -> Any:
        prompt, completion = task.prompt, task.completion
        if conversational:
            prompt, completion = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
        metrics: dict[str, float] = {}
        columns = {name: [value] for name, value in task.answer.items()}
        given = {"prompts": [prompt], "completions": [completion], "trainer_state": None}
        logs = {"log_extra": lambda column, values: None, "log_metric": metrics.__setitem__}
        ids = {"completion_ids": [_ids(task.completion_ids)]} if task.completion_ids else {}
        rewards = awaited(judge(**_accepted(judge, columns | given | logs | ids)))
        if len(rewards) != 1:
            raise ValueError(f"it returned {rewards!r:.200}: expected a list of one reward for one completion")
        return {**metrics, "score": rewards[0]}

    return _verifier(call)


def from_verl(judge: Judge, **reward_kwargs: Any) -> Verifier:
    """compute_score(data_source, solution_str, ground_truth, extra_info, **reward_kwargs) -> reward or {"score": reward, ...}.

    The answer object: {"ground_truth" (or "answer", or verl's "reward_model"), "data_source", "extra_info"}.
    """

    def call(task: Task) -> Any:
        answer = task.answer
        truths = [answer.get("ground_truth"), (answer.get("reward_model") or {}).get("ground_truth"), answer.get("answer")]
        truth = next((truth for truth in truths if truth is not None), None)
        if truth is None:
            raise ValueError(f"the prompt's answer has no ground_truth: {answer!r:.200}")
        given = {
            "data_source": answer.get("data_source", ""),
            "solution_str": task.completion,
            "ground_truth": truth,
            "extra_info": answer.get("extra_info") or {},
        }
        return judge(**_accepted(judge, given), **reward_kwargs)

    return _verifier(call)


def from_areal(judge: Judge) -> Verifier:
    """f(prompt, completions, prompt_ids, completion_ids, **columns) -> reward; `completions` is one text."""

    def call(task: Task) -> Any:
        given = (task.prompt, task.completion, _ids(task.prompt_ids), _ids(task.completion_ids))
        return judge(*given, **_accepted(judge, task.answer))

    return _verifier(call)


def from_reasoning_gym(dataset: Any, **config: Any) -> Verifier:
    """A dataset of Reasoning Gym by name, or any object with `score_answer(answer, entry)`.

    The answer object: {"entry": the entry}. What stands between the last <answer> tags is judged. Raises UserError for a name
    whose scorer cannot be trusted. An object of the user's own is trusted, like all of their code.
    """
    if isinstance(dataset, str) and dataset in logic.REFUSED.keys() | logic.UNSAFE:
        why = logic.REFUSED.get(dataset, "its scorer executes what the model wrote; use the verifier reasoning_gym")
        raise UserError(f"from_reasoning_gym({dataset!r}): {why}")

    @functools.cache
    def scorer() -> Any:
        if not isinstance(dataset, str):
            return dataset
        import reasoning_gym

        return reasoning_gym.create_dataset(dataset, **({"size": 1, "seed": 0} | config))

    def call(task: Task) -> Any:
        given = last_tagged(after_thinking(task))
        if given is None:
            return Score(reward=0.0, status="no_answer", detail="no <answer>...</answer> behind the thinking")
        return scorer().score_answer(given, task.answer["entry"])

    return _verifier(call, load=scorer)


def _verifier(call: Callable[[Task], Any], load: Callable[[], Any] = lambda: None) -> Verifier:
    def check(answer: dict[str, Any]) -> None:
        """Whatever their code needs to know is theirs to say."""

    return Verifier(check=check, load=load, score=lambda task: as_score(awaited(call(task))), probe=None)


def as_score(result: Any) -> Score:
    """What a function returned, as a score. Raises ValueError or TypeError for anything but a finite number."""
    if isinstance(result, Score):
        checked = as_score({**result.metrics, "score": result.reward})
        return msgspec.structs.replace(result, reward=checked.reward, metrics=checked.metrics)
    metrics: dict[str, float] = {}
    if isinstance(result, Mapping):
        numbers = {name: number for name, value in result.items() if (number := _finite(value)) is not None}
        metrics = dict([(str(name)[:MAX_METRIC_NAME], number) for name, number in numbers.items()][:MAX_METRICS])
        if "score" not in result:
            raise ValueError(f"it returned {result!r:.200}: expected a number, or a mapping with a score")
        result = result["score"]
        metrics.pop("score", None)
    if result is None:
        raise ValueError("it returned None: it does not apply to this prompt")
    if isinstance(result, str | bytes) or not math.isfinite(reward := float(result)):
        raise ValueError(f"it returned {result!r:.200}: expected a finite number")
    return Score(reward=reward, metrics=metrics)


def awaited(result: Any) -> Any:
    """The result of an async function; all of one worker run on one event loop, so that what they keep between calls works."""
    return _runner().run(_wait_for(result)) if inspect.isawaitable(result) else result


@functools.cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result


def _accepted(judge: Judge, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function takes."""
    parameters = inspect.signature(judge).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return {name: value for name, value in arguments.items() if name in names}


def _ids(raw: bytes) -> list[int]:
    return array.array("i", raw).tolist()


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
