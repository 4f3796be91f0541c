"""Prompts that a small chat model can learn from: four tasks of arithmetic, two of our own and two of Reasoning Gym.

Each prompt is a plain question, to be wrapped as a chat by `data.*.chat`, and its answer is one number, which the verifier
`number` finds at the end of the completion. Training and held-out prompts never share a question.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

from ...common.json_object import JsonObject

NUM_TRAIN, NUM_HELDOUT = 1000, 50  # prompts per task
NAMES: str = "Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Lena Max Nora Oscar Paula Sam Tom Vera"
THINGS: str = "apples books cards coins eggs marbles pencils shells stamps stickers stones tickets"
# what Reasoning Gym asks of `products`: without it the model explains until the limit of tokens, and never answers
BRIEFLY = " Give only the result as your final answer."
# settings of the generators of Reasoning Gym
GYM: dict[str, JsonObject] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
}
Problem = tuple[str, str]  # question, answer


def sums(rng: random.Random) -> Problem:
    """A sum of two numbers of one or two digits."""
    a, b = rng.randint(2, 60), rng.randint(2, 60)
    return f"What is {a} + {b}?{BRIEFLY}", str(a + b)


def word_problem(rng: random.Random) -> Problem:
    """One step with names and things: more, fewer, several times as many, or a fair share."""
    name, other = rng.sample(NAMES.split(), 2)
    things, form = rng.choice(THINGS.split()), rng.randrange(4)
    a, b = rng.randint(2, 9), rng.randint(2, 12)
    more, total = rng.randint(3, 20), rng.randint(24, 60)
    story, answer = (
        (
            f"{name} has {total} {things} and gets {more} more from {other}. How many {things} does {name} have now?",
            total + more,
        ),
        (
            f"{name} has {total} {things} and gives {more} of them to {other}. How many {things} does {name} have left?",
            total - more,
        ),
        (f"{name} has {a} boxes with {b} {things} in each. How many {things} does {name} have?", a * b),
        (f"{name} shares {a * b} {things} fairly among {a} friends. How many {things} does each friend get?", b),
    )[form]
    return story + BRIEFLY, str(answer)


def gym_problem(dataset: str, rng: random.Random) -> Problem:
    entry = _gym(dataset)[rng.randrange(2**31)]
    return entry["question"].strip(), str(entry["answer"]).strip()


TASKS: dict[str, Callable[[random.Random], Problem]] = {
    "arithmetic/sums": sums,
    "words/one_step": word_problem,
    "arithmetic/chain_sum": lambda rng: gym_problem("chain_sum", rng),
    "arithmetic/products": lambda rng: gym_problem("products", rng),
}


class _Entries(Protocol):
    def __getitem__(self, index: int, /) -> JsonObject: ...


@cache
def _gym(dataset: str) -> _Entries:
    # takes two seconds to import: only needed to make prompts
    import reasoning_gym

    return reasoning_gym.create_dataset(dataset, seed=0, size=2**31, **GYM[dataset])


def split(task: str, seed: int, num_train: int, num_heldout: int) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems of a task, all with different questions."""
    rng = random.Random(f"{task}/{seed}")
    found: dict[str, str] = {}
    while len(found) < num_train + num_heldout:
        found.setdefault(*TASKS[task](rng))
    problems = list(found.items())
    return problems[num_heldout:], problems[:num_heldout]


def write_questions(folder: Path, seed: int = 0, num_train: int = NUM_TRAIN, num_heldout: int = NUM_HELDOUT) -> None:
    """Write train.jsonl and heldout.jsonl to `folder`, the tasks in turn. Raises: OSError."""
    made = {task: split(task, seed, num_train, num_heldout) for task in TASKS}
    for part, name in enumerate(("train", "heldout")):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for record in records(name, {task: halves[part] for task, halves in made.items()}):
                file.write(json.dumps(record) + "\n")


def records(name: str, problems: dict[str, list[Problem]]) -> Iterator[JsonObject]:
    """Yield a record for each problem, the tasks in turn."""
    for index, row in enumerate(zip(*problems.values(), strict=True)):
        for key, (question, answer) in zip(problems, row, strict=True):
            domain, task = key.split("/")
            yield {
                "uid": f"{key}/{name}/{index}",
                "prompt": question,
                "domain": domain,
                "task": task,
                "verifier": "number",
                "answer": {"answer": answer},
            }
