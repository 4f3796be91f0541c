"""`instructions`: does a text follow its instructions? The 25 verifiable instruction types of IFEval (arXiv 2311.07911).

    {"instructions": [{"id": "keywords:existence", "kwargs": {"keywords": ["rain"]}}], "reward": "average"}

`reward`: "average" (the default) pays the share of instructions followed, "all" pays 1 for all of them and 0 otherwise. What
counts is the text behind </think>; an empty one follows nothing. Each type is one function of instruction_rules.py.
"""

from __future__ import annotations

import difflib
from typing import Any

from ...common.errors import DataError
from ..answers.extraction import after_thinking
from ..api import Score, Task, Verifier
from .rules import NEEDS_LANGUAGE, RULES, Rule
from .text import load_languages

MAX_TEXT_CHARS = 400_000
REWARDS = ("average", "all")


def check(answer: dict[str, Any]) -> None:
    """Raises DataError for an unknown type, for kwargs that are missing, unknown or impossible."""
    instructions, reward = answer.get("instructions"), answer.get("reward", "average")
    if not isinstance(instructions, list) or not instructions:
        raise DataError(
            f'verifier instructions: got {answer!r:.200}; expected {{"instructions": [{{"id": NAME, "kwargs": {{...}}}}, ...]}}'
        )
    if reward not in REWARDS:
        raise DataError(f"verifier instructions: reward = {reward!r}: expected one of {', '.join(REWARDS)}")
    for instruction in instructions:
        if not isinstance(instruction, dict):
            raise DataError(f'verifier instructions: got {instruction!r:.200}; expected {{"id": NAME, "kwargs": {{...}}}}')
        _check_one(instruction.get("id"), instruction.get("kwargs"))


def _check_one(name: Any, kwargs: Any) -> None:
    if not isinstance(name, str) or name not in RULES:
        nearest = difflib.get_close_matches(str(name), RULES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(f"verifier instructions: unknown instruction {name!r}: expected one of {', '.join(RULES)}{hint}")
    where, given = f"verifier instructions: {name}", given_of(kwargs)
    wanted = RULES[name].kwargs
    if given is None or set(given) != set(wanted):
        raise DataError(f"{where} got kwargs {kwargs!r:.200}; expected exactly {', '.join(wanted) or 'none'}")
    for key, (is_valid, expected) in wanted.items():
        if not is_valid(given[key]):
            raise DataError(f"{where}: {key} = {given[key]!r:.200}: expected {expected}")
    if problem := RULES[name].impossible(given):
        raise DataError(f"{where}: {given!r:.200} can never be followed: {problem}")


def given_of(kwargs: Any) -> dict[str, Any] | None:
    """The kwargs of one instruction; published files write those that another type needs as null."""
    if kwargs is None:
        return {}
    return {key: value for key, value in kwargs.items() if value is not None} if isinstance(kwargs, dict) else None


def quick(task: Task) -> Score | None:
    """Everything but what takes the language model."""
    named = {instruction["id"] for instruction in task.answer["instructions"]}
    text = after_thinking(task).strip()
    return None if named & NEEDS_LANGUAGE and 0 < len(text) <= MAX_TEXT_CHARS else score(task)


def score(task: Task) -> Score:
    """The share of instructions followed, or whether all are; metrics: both, and the number of instructions."""
    text = after_thinking(task).strip()
    if not text:
        return Score(reward=0.0, status="no_answer", detail="no text behind the thinking")
    if len(text) > MAX_TEXT_CHARS:
        return Score(reward=0.0, status="input_rejected", detail=f"a text of {len(text)} characters")
    followed = {i: _rule(x).follows(text, given_of(x.get("kwargs"))) for i, x in enumerate(task.answer["instructions"])}
    missed = [task.answer["instructions"][i]["id"] for i, done in followed.items() if not done]
    share, strict = 1 - len(missed) / len(followed), float(not missed)
    reward = strict if task.answer.get("reward", "average") == "all" else share
    metrics = {"followed": share, "followed_all": strict}
    return Score(reward=reward, detail=f"missed {', '.join(missed)}" if missed else "", metrics=metrics)


def _rule(instruction: dict[str, Any]) -> Rule:
    return RULES[instruction["id"]]


def probe(answer: dict[str, Any]) -> None:
    """A harmless text against the instructions."""
    score(Task(completion="A harmless text.", answer=answer))


INSTRUCTIONS = Verifier(check=check, quick=quick, load=load_languages, score=score, probe=probe)
