"""`instructions`: does a text follow its instructions? The types of IFEval, of IF-RLVR's training set and of IFBench.

    {"instructions": [{"id": "keywords:existence", "kwargs": {"keywords": ["rain"]}}], "reward": "average", "strict": true}

`reward`: "average" (the default) pays the share of instructions followed, "all" pays 1 for all of them and 0 otherwise.
`strict`: true (the default) pays no accidents, such as a keyword inside other words; false judges as the checkers of the data
sets do, so that figures compare (docs/decisions/015-strict-instructions.md). The text behind </think> counts; an empty one
follows nothing. Each type is one rule of ifeval.py, training.py or the ifbench modules.
"""

from __future__ import annotations

import re
import unicodedata

from ...common.errors import DataError
from ...common.types import VerdictStatus
from ..answers.extraction import after_thinking
from ..api import Answer, Score, Task, Verifier
from .obedience import chosen_follows, obeying_text
from .rules import RULES, check_instruction, read_instruction
from .text import load_languages

MAX_TEXT_CHARS = 400_000
REWARDS = ("average", "all")
_BLANK_START = re.compile(r"(?:[^\S\n]*\n)+")


class InstructionsVerifier(Verifier):
    """The text after `</think>`: the share of its instructions that it follows (IFEval, IF-RLVR, IFBench), or all or none."""

    def check(self, answer: Answer) -> None:
        """Raises DataError for an unknown type, and for kwargs that are missing, unknown or impossible to follow."""
        instructions, reward = answer.get("instructions"), answer.get("reward", "average")
        if not isinstance(instructions, list) or not instructions:
            expected = '{"instructions": [{"id": NAME, "kwargs": {...}}, ...]}'
            raise DataError(f"verifier instructions: got {answer!r:.200}; expected {expected}")
        if reward not in REWARDS:
            raise DataError(f"verifier instructions: reward = {reward!r}: expected one of {', '.join(REWARDS)}")
        if not isinstance(answer.get("strict", True), bool):
            raise DataError(f"verifier instructions: strict = {answer['strict']!r}: expected true or false")
        for instruction in instructions:
            check_instruction(instruction)

    def gold(self, answer: Answer) -> str | None:
        return obeying_text(answer)

    def quick(self, task: Task) -> Score | None:
        """Judge everything but instructions that need the language model."""
        slow = any(RULES[one["id"]].needs_language for one in task.answer["instructions"])
        return None if slow and 0 < len(after_thinking(task).strip()) <= MAX_TEXT_CHARS else self.score(task)

    def load(self) -> None:
        load_languages()

    def score(self, task: Task) -> Score:
        """Metrics: the share of instructions followed, and whether all are."""
        indented = _indented(after_thinking(task))
        if not _is_visible(indented):
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no text behind the thinking")
        if len(indented) > MAX_TEXT_CHARS:
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=f"a text of {len(indented)} characters")
        read = [read_instruction(one) for one in task.answer["instructions"]]
        missed = []
        for name, rule, kwargs in read:
            text = indented if rule.keeps_indent else indented.strip()
            if not chosen_follows(rule, task.answer)(text, kwargs):
                missed.append(name)
        share, all_of_them = 1 - len(missed) / len(read), float(not missed)
        reward = all_of_them if task.answer.get("reward", "average") == "all" else share
        metrics = {"followed": share, "followed_all": all_of_them}
        return Score(reward=reward, detail=f"missed {', '.join(missed)}" if missed else "", metrics=metrics)

    def probe(self, answer: Answer) -> bool:
        self.score(Task(completion="A harmless text.", answer=answer))
        return True


def _is_visible(text: str) -> bool:
    """Whether there is a letter, digit, mark of punctuation or symbol: zero-width characters are no text."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in text)


def _indented(text: str) -> str:
    """The text without white space around it but for the indent of its first line, with line ends as \\n."""
    text = text.replace("\r\n", "\n").rstrip()
    blank = _BLANK_START.match(text)
    return text[blank.end() :] if blank else text


INSTRUCTIONS = InstructionsVerifier()
