"""The answer that a completion gives, in a form in which equal answers are equal texts: what a majority vote counts.

Only verifiers whose prompts have one answer are known here. A right answer is right in any spelling: the verdict says so, and
all right ones are one answer.
"""

from __future__ import annotations

from ...common.types import Prompt
from ...verifiers.answers.extraction import after_thinking, last_boxed, last_number, last_tagged
from ...verifiers.answers.spelling import clean
from ...verifiers.api import Task
from ...verifiers.registry import parse_answer

VOTING = ("math", "number", "stem", "json", "reasoning_gym")
RIGHT = ""  # the vote for the right answer; no other vote is empty
MAX_VOTE_CHARS = 2000  # longer texts are no answers


def vote_of(prompt: Prompt, completion: str, *, cut_off: bool) -> str | None:
    """The vote of one completion that is not right; None for one that names no answer. `cut_off`: it ran out of tokens."""
    thinking = prompt.text.rstrip().endswith("<think>")
    text = after_thinking(Task(completion=completion, answer=parse_answer(prompt.answer), thinking_open=thinking))
    found = last_boxed(text) or last_tagged(text)
    if not found and prompt.verifier == "number" and not cut_off:
        found = last_number(text)
    if not found or len(found) > MAX_VOTE_CHARS:
        return None
    return "".join(clean(found).split()) or None


def is_right(reward: float) -> bool:
    """Whether a reward is full: code that passes some of its tests, and puzzles that are solved in part, are not right."""
    return reward >= 1.0 - 1e-9
