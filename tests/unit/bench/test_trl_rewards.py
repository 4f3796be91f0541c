"""The rewards that TRL is given in a race are those of the verifiers, for right answers and for all sorts of wrong ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from prolong.bench.long_tail import counting_problem
from prolong.bench.race_trl import RACED
from prolong.bench.trl_rewards import demo_reward, target_of
from prolong.launch.demo.tasks import DEMO_LEVEL, TASKS, DemoProblem, ProblemMaker
from prolong.verifiers.api import Task
from prolong.verifiers.registry import find

MAKERS = {name: make for name, make in TASKS.items() if make(random.Random(0), DEMO_LEVEL).verifier in RACED}


def completions(problem: DemoProblem, rng: random.Random) -> Iterator[str]:
    """What a policy may write: right, hasty, unfinished, two answers, one letter more, less, or another."""
    right, hasty = problem.careful, problem.hasty
    yield from (right, hasty, right[:-1], right + hasty, hasty + right, right.replace("</think>", ""), "", "</think>")
    for text in (right, hasty):
        letters = [place for place, letter in enumerate(text) if letter.isalnum()]
        for _ in range(12):
            at, other = rng.choice(letters), rng.choice(letters)
            yield text[:at] + text[at + 1 :]
            yield text[:at] + text[other] + text[at:]
            yield text[:at] + text[other] + text[at + 1 :]


@pytest.mark.parametrize(("name", "make"), [*MAKERS.items(), ("math/counting", counting_problem)])
def test_the_race_pays_trl_what_the_verifiers_pay(name: str, make: ProblemMaker) -> None:
    rng, paid = random.Random(1), set()
    for _ in range(20):
        problem = make(rng, DEMO_LEVEL)
        target, task = target_of({"answer": problem.answer}), name.partition("/")[2]
        for text in completions(problem, rng):
            ours = find(problem.verifier).score(Task(completion=text, answer=problem.answer)).reward
            assert demo_reward(text, problem.verifier, target, task) == pytest.approx(ours), (text, target)
            paid.add(ours)
    assert {0.0, 1.0} <= paid


def test_an_answer_that_is_no_number_is_another_than_any_other() -> None:
    assert demo_reward("\\boxed{cat}", "math", "cat", "a task of words") == 1.0
    assert demo_reward("\\boxed{dog}", "math", "cat", "a task of words") == 0.0
