"""Reward functions in the form that other libraries want, unmodified, as verifiers: one line each in a module of the user's.

    # rewards.py                                                    # recipe.yaml
    from prolong.verifiers.adapters import from_trl                 verifiers:
    boxed = from_trl(reward_func)                                     own: {boxed: "rewards:boxed"}

They run in a worker (user_verifiers.py). An exception, or a result that is not a finite number, is the function's own failure
and gives no reward; it is never a 0. Functions may be `async`. Columns of a dataset are the keys of the prompt's answer object.
Source of the signatures: TRL docs/source/grpo_trainer.md, verl docs/preparation/reward_function.rst, AReaL areal/reward.
"""

from __future__ import annotations

import array
import asyncio
import functools
import inspect
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ..common.errors import UserError
from ..common.json_object import JsonObject
from ..common.types import VerdictStatus
from .answers.extraction import after_thinking, last_tagged
from .api import Answer, Score, Task, Verifier
from .logic import reasoning_gym as puzzles
from .services.environments import from_verifiers as from_verifiers
from .services.http_judge import from_http as from_http

MAX_METRICS = 64
MAX_METRIC_NAME = 100  # characters
RewardFunction = Callable[..., Any]


class FunctionVerifier(Verifier):
    """A function of the user's as a verifier. Its failures give no reward, because nothing shows whose fault they are."""

    def __init__(self, call: Callable[[Task], Any], load: Callable[[], object] | None = None) -> None:
        """call: returns what `as_score` takes, or an awaitable of it. load: the hook of Verifier."""
        self._call, self._load = call, load

    def check(self, answer: Answer) -> None:
        """Accepts every answer: only the user's code knows which fields it needs."""

    def gold(self, answer: Answer) -> str | None:
        return None

    def load(self) -> None:
        if self._load is not None:
            self._load()

    def score(self, task: Task) -> Score:
        return as_score(awaited(self._call(task)))


def from_function(function: RewardFunction) -> Verifier:
    """f(completion, answer) -> reward, or {"score": reward, METRIC: number}; `answer` is the prompt's answer object."""
    return FunctionVerifier(lambda task: function(task.completion, task.answer))


def from_trl(function: RewardFunction, *, conversational: bool = False) -> Verifier:
    """f(prompts, completions, completion_ids, **columns) -> [reward or None]; called with lists of one.

    conversational: prompts and completions are lists of messages, {"role", "content"}. Calls of log_metric become metrics.
    """

    def call(task: Task) -> Any:
        prompt, completion = task.prompt, task.completion
        if conversational:
            prompt, completion = [{"role": "user", "content": prompt}], [{"role": "assistant", "content": completion}]
        metrics: dict[str, float] = {}
        columns = {name: [value] for name, value in task.answer.items()}
        arguments = columns | {"prompts": [prompt], "completions": [completion], "trainer_state": None}
        arguments |= {"log_extra": lambda column, values: None, "log_metric": metrics.__setitem__}
        if task.completion_ids:
            arguments["completion_ids"] = [_ids(task.completion_ids)]
        rewards = awaited(function(**_accepted(function, arguments)))
        if len(rewards) != 1:
            raise ValueError(f"it returned {rewards!r:.200}: expected a list of one reward for one completion")
        return {**metrics, "score": rewards[0]}

    return FunctionVerifier(call)


def from_verl(function: RewardFunction, **reward_kwargs: Any) -> Verifier:
    """compute_score(data_source, solution_str, ground_truth, extra_info, **reward_kwargs) -> reward or {"score": reward, ...}.

    The answer object: {"ground_truth" (or "answer", or verl's "reward_model"), "data_source", "extra_info"}.
    """

    def call(task: Task) -> Any:
        answer = task.answer
        truths = [answer.get("ground_truth"), (answer.get("reward_model") or {}).get("ground_truth"), answer.get("answer")]
        truth = next((truth for truth in truths if truth is not None), None)
        if truth is None:
            raise ValueError(f"the prompt's answer has no ground_truth: {answer!r:.200}")
        arguments = {
            "data_source": answer.get("data_source", ""),
            "solution_str": task.completion,
            "ground_truth": truth,
            "extra_info": answer.get("extra_info") or {},
        }
        return function(**_accepted(function, arguments), **reward_kwargs)

    return FunctionVerifier(call)


def from_areal(function: RewardFunction) -> Verifier:
    """f(prompt, completions, prompt_ids, completion_ids, **columns) -> reward; `completions` is one text."""

    def call(task: Task) -> Any:
        positional = (task.prompt, task.completion, _ids(task.prompt_ids), _ids(task.completion_ids))
        return function(*positional, **_accepted(function, task.answer))

    return FunctionVerifier(call)


def from_reasoning_gym(dataset: Any, **config: Any) -> Verifier:
    """A dataset of Reasoning Gym by name, or any object with `score_answer(answer, entry)`.

    The answer object: {"entry": the entry}. The text between the last <answer> tags is judged. An object of the user's is
    trusted, like all of the user's code. Raises UserError for a name whose scorer cannot be trusted.
    """
    if isinstance(dataset, str) and dataset in puzzles.REFUSED.keys() | puzzles.UNSAFE:
        why = puzzles.REFUSED.get(dataset, "its scorer executes what the model wrote; use the verifier reasoning_gym")
        raise UserError(f"from_reasoning_gym({dataset!r}): {why}")

    @functools.cache
    def scorer() -> Any:
        if not isinstance(dataset, str):
            return dataset
        import reasoning_gym

        return reasoning_gym.create_dataset(dataset, **{"size": 1, "seed": 0, **config})

    def call(task: Task) -> Any:
        text = last_tagged(after_thinking(task))
        if text is None:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no <answer>...</answer> behind the thinking")
        return scorer().score_answer(text, task.answer["entry"])

    return FunctionVerifier(call, load=scorer)


def as_score(result: Any) -> Score:
    """Make a score of a function's result: a number, a mapping with a `score`, or a Score.

    Raises ValueError or TypeError unless the reward is a finite number.
    """
    if isinstance(result, Score):
        checked = as_score({**result.metrics, "score": result.reward})
        status = VerdictStatus(result.status)  # the user may have written any text
        return msgspec.structs.replace(result, reward=checked.reward, metrics=checked.metrics, status=status)
    metrics: dict[str, float] = {}
    if isinstance(result, Mapping):
        numbers = {name: number for name, value in result.items() if (number := _finite(value)) is not None}
        kept = itertools.islice(numbers.items(), MAX_METRICS)
        metrics = {str(name)[:MAX_METRIC_NAME]: number for name, number in kept}
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
    """Wait for the result of an async function. A worker has one event loop for all calls, so functions may keep clients."""
    return _runner().run(_wait_for(result)) if inspect.isawaitable(result) else result


@functools.cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result


def _accepted(function: RewardFunction, arguments: Mapping[str, Any]) -> JsonObject:
    """Those of the arguments that the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return {name: value for name, value in arguments.items() if name in names}


def _ids(raw: bytes) -> list[int]:
    return array.array("i", raw).tolist()


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
