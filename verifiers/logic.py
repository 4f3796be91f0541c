"""`reasoning_gym`: puzzles of Reasoning Gym (Apache-2.0), judged by its own scorers inside <answer> tags.

The answer specification holds the dataset's name and the stored entry: entries are generated once and kept, because several
generators ignore their seed or vary with the hash seed. Scorers that execute what the model wrote are refused until there is a
sandbox for them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from ..common.errors import DataError, UserError
from .answer import after_thinking, last_tagged
from .base import Score, Task, Verifier

EXECUTES_OUTPUT = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)  # of reasoning-gym 0.1.25: eval() or sympy.parse_expr() of the answer


def load() -> None:
    import reasoning_gym  # noqa: F401  two seconds


@functools.cache
def _dataset(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0)


def score(task: Task) -> Score:
    given = last_tagged(after_thinking(task))
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no <answer>...</answer> behind the thinking")
    return Score(reward=_judge(given, task.answer))


def probe(answer: dict[str, Any]) -> None:
    _judge(answer["entry"]["answer"], answer)


def _judge(given: str | None, answer: dict[str, Any]) -> float:
    reward = float(_dataset(answer["dataset"]).score_answer(given, answer["entry"]))
    if not math.isfinite(reward):
        raise ValueError(f"the scorer of {answer['dataset']} returned {reward}")
    return reward


def check(answer: dict[str, Any]) -> None:
    name, entry = answer.get("dataset"), answer.get("entry")
    if not isinstance(name, str) or not isinstance(entry, dict) or "answer" not in entry:
        raise DataError(f'verifier reasoning_gym: got {answer!r:.200}; expected {{"dataset": NAME, "entry": the stored entry}}')
    if name in EXECUTES_OUTPUT:
        raise UserError(
            f"verifier reasoning_gym: the scorer of dataset {name} executes what the model wrote, and there is no sandbox yet; "
            f"leave these datasets out: {', '.join(sorted(EXECUTES_OUTPUT))}"
        )


REASONING_GYM = Verifier(check=check, load=load, score=score, probe=probe, eager=True)
