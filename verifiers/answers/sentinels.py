"""Stored texts that stand for a missing answer: data sets write "proof", "notfound" or None where there is none to compare.

Whoever repeats such a text would be paid, so no verifier takes it as an answer.
"""

from __future__ import annotations

import re

from ...common.errors import DataError
from ..api import Answer
from .extraction import stored_answer
from .spelling import plain, tidy, unwrap

SENTINELS = frozenset({
    "proof", "proof omitted", "see proof", "notfound", "not found", "answer not found", "no answer found", "n/a", "null", "nan",
    "see solution", "see the solution", "see above", "see explanation", "not available", "no answer", "no answer given",
    "answer omitted", "omitted", "tbd", "todo", "?", "-", "undefined answer", "unavailable", "missing", "missing answer",
})  # fmt: skip
_EXACTLY = frozenset({"None", "NONE", "NA", "N.A.", "[]", "{}", "()"})  # none is an answer in words, None is Python's
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def stands_for_no_answer(text: str, more: frozenset[str] = frozenset()) -> bool:
    """Whether a text is empty or stands for a missing answer, also in \\text{}. `more`: other such words."""
    bare = plain(unwrap(tidy(text.strip()))).strip(" .")
    return not bare or bare.lower() in SENTINELS | more or text.strip() in _EXACTLY


def refuse_sentinel(verifier: str, answer: Answer) -> None:
    """Raises DataError where the stored answer says that there is no answer, is empty, or was damaged by an escape."""
    text = stored_answer(answer)
    if stands_for_no_answer(text):
        raise DataError(
            f"verifier {verifier}: got answer {answer['answer']!r}, which stands for a missing answer; leave such prompts out, "
            "because a completion that repeats it would be paid"
        )
    if "####" in text:
        raise DataError(f'verifier {verifier}: got answer {answer["answer"]!r}; expected what stands behind the marker "####"')
    if _CONTROL.search(str(answer["answer"])):
        raise DataError(
            f"verifier {verifier}: got answer {answer['answer']!r} with control characters; expected LaTeX whose backslashes "
            'were escaped when it was written: "\\\\frac" in JSON, not "\\frac"'
        )
