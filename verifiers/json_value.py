"""`json`: does the completion give the stored JSON value? For tables, grids, lists and outputs of programs.

    {"value": {"header": ["House"], "rows": [["1"]]}}      the content of the last <answer> tags must be this value

The answer is behind the thinking: the last <answer> tag, else the last box, else the last fenced block. Keys may stand in any
order; texts are compared without case and surrounding spaces; a number is met by its text, because sets write both.
"""

from __future__ import annotations

import json
import re

from ..common.errors import DataError
from ..common.types import VerdictStatus
from .answers.extraction import after_thinking, last_boxed, last_tagged
from .answers.literals import parsed_literal
from .api import Answer, Score, Task, Verifier

MAX_VALUE_CHARS = 50_000
_FENCE = re.compile(r"^\s*```\w*\n(.*?)^\s*```", re.DOTALL | re.MULTILINE)
_UNREADABLE = object()


class JsonVerifier(Verifier):
    """The JSON value in the last `<answer>` tag (else box, else fenced block), compared with the stored one."""

    def check(self, answer: Answer) -> None:
        if set(answer) != {"value"} or answer["value"] in (None, "", [], {}):
            raise DataError(f'verifier json: got answer {answer!r:.200}; expected {{"value": a JSON value with content}}')

    def gold(self, answer: Answer) -> str | None:
        value = answer["value"]
        return f"<answer>{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}</answer>"

    def quick(self, task: Task) -> Score | None:
        return self.score(task)

    def score(self, task: Task) -> Score:
        text = given_value(after_thinking(task))
        if not text:
            return Score(reward=0.0, status=VerdictStatus.no_answer, detail="no <answer>...</answer> behind the thinking")
        stored = task.answer["value"]
        if len(text) > max(MAX_VALUE_CHARS, 4 * len(json.dumps(stored))):
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=f"a value of {len(text)} characters")
        if isinstance(stored, str) and normal_leaf(stored) == normal_leaf(text):
            return Score(reward=1.0)
        value = parsed_literal(text, _UNREADABLE)
        if value is _UNREADABLE:
            return Score(reward=0.0, detail="the answer is not JSON")
        return Score(reward=float(equal_values(stored, value)))

    def probe(self, answer: Answer) -> bool:
        self.check(answer)
        return True


def given_value(text: str) -> str | None:
    """The text of the answer: the content of the last tag, box or fenced block, without a fence inside the tag."""
    found = last_tagged(text) or last_boxed(text)
    if found is None or "```" in found:
        blocks = _FENCE.findall((found or text) + "\n")
        found = blocks[-1].strip() if blocks else found
    return found


def equal_values(stored: object, given: object) -> bool:
    if isinstance(stored, dict):
        if not isinstance(given, dict) or len(stored) != len(given):
            return False
        keyed = {normal_leaf(key): value for key, value in given.items()}
        return all(normal_leaf(key) in keyed and equal_values(value, keyed[normal_leaf(key)]) for key, value in stored.items())
    if isinstance(stored, list):
        if not isinstance(given, list | tuple) or len(stored) != len(given):
            return False
        return all(equal_values(a, b) for a, b in zip(stored, given, strict=True))
    return not isinstance(given, dict | list | tuple | set) and normal_leaf(stored) == normal_leaf(given)


def normal_leaf(value: object) -> str:
    """A leaf as a text: `True` and `true` are one, and so are 2 and "2" and 2.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value).strip().casefold()


JSON = JsonVerifier()
