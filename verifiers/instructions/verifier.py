"""`instructions`: does a text follow its instructions? The 25 verifiable instruction types of IFEval (arXiv 2311.07911).

    {"instructions": [{"id": "keywords:existence", "kwargs": {"keywords": ["rain"]}}], "reward": "average"}

`reward`: "average" (the default) pays the share of instructions followed, "all" pays 1 for all of them and 0 otherwise. The
text behind </think> counts; an empty one follows nothing. Each type is one function of rules.py.
"""

from __future__ import annotations

import difflib
from typing import Any

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ...common.types import VerdictStatus
from ..answers.extraction import after_thinking
from ..api import Answer, Score, Task, Verifier
from .rules import NEEDS_LANGUAGE, RULES
from .text import load_languages

MAX_TEXT_CHARS = 400_000
REWARDS = ("average", "all")


class InstructionsVerifier(Verifier):
    """The text after `</think>`: the share of its IFEval instructions that it follows, or all or nothing."""

    def check(self, answer: Answer) -> None:
        """Raises DataError for an unknown type, and for kwargs that are missing, unknown or impossible to follow."""
        instructions, reward = answer.get("instructions"), answer.get("reward", "average")
        if not isinstance(instructions, list) or not instructions:
            expected = '{"instructions": [{"id": NAME, "kwargs": {...}}, ...]}'
            raise DataError(f"verifier instructions: got {answer!r:.200}; expected {expected}")
        if reward not in REWARDS:
            raise DataError(f"verifier instructions: reward = {reward!r}: expected one of {', '.join(REWARDS)}")
        for instruction in instructions:
            if not isinstance(instruction, dict):
                raise DataError(f'verifier instructions: got {instruction!r:.200}; expected {{"id": NAME, "kwargs": {{...}}}}')
            _check_one(instruction.get("id"), instruction.get("kwargs"))

    def gold(self, answer: Answer) -> str | None:
        return None  # instructions do not tell a text that follows them

    def quick(self, task: Task) -> Score | None:
        """Judge everything but instructions that need the language model."""
        named = {instruction["id"] for instruction in task.answer["instructions"]}
        text = after_thinking(task).strip()
        return None if named & NEEDS_LANGUAGE and 0 < len(text) <= MAX_TEXT_CHARS else self.score(task)

    def load(self) -> None:
        load_languages()

    def score(self, task: Task) -> Score:
        """Metrics: the share of instructions followed, and whether all are."""
        text = after_thinking(task).strip()
        if not text:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no text behind the thinking")
        if len(text) > MAX_TEXT_CHARS:
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=f"a text of {len(text)} characters")
        instructions = task.answer["instructions"]
        missed = [one["id"] for one in instructions if not RULES[one["id"]].follows(text, present_kwargs(one.get("kwargs")))]
        share, strict = 1 - len(missed) / len(instructions), float(not missed)
        reward = strict if task.answer.get("reward", "average") == "all" else share
        metrics = {"followed": share, "followed_all": strict}
        return Score(reward=reward, detail=f"missed {', '.join(missed)}" if missed else "", metrics=metrics)

    def probe(self, answer: Answer) -> bool:
        self.score(Task(completion="A harmless text.", answer=answer))
        return True


def _check_one(name: Any, kwargs: Any) -> None:
    if not isinstance(name, str) or name not in RULES:
        nearest = difflib.get_close_matches(str(name), RULES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(f"verifier instructions: unknown instruction {name!r}: expected one of {', '.join(RULES)}{hint}")
    where, present = f"verifier instructions: {name}", present_kwargs(kwargs)
    wanted = RULES[name].kwargs
    if present is None or set(present) != set(wanted):
        raise DataError(f"{where} got kwargs {kwargs!r:.200}; expected exactly {', '.join(wanted) or 'none'}")
    for key, (is_valid, expected) in wanted.items():
        if not is_valid(present[key]):
            raise DataError(f"{where}: {key} = {present[key]!r:.200}: expected {expected}")
    if problem := RULES[name].impossible(present):
        raise DataError(f"{where}: {present!r:.200} can never be followed: {problem}")


def present_kwargs(kwargs: Any) -> JsonObject | None:
    """The kwargs of one instruction without those that are null, as published files write those of other types.

    None for kwargs that are not an object.
    """
    if kwargs is None:
        return {}
    return {key: value for key, value in kwargs.items() if value is not None} if isinstance(kwargs, dict) else None


INSTRUCTIONS = InstructionsVerifier()
