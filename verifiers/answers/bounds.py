"""What an answer may cost: bounds on its shape before the parser sees it, and a budget of CPU time behind that.

    answer --beyond_bounds (one pass)--> refused, or judged by text and number --within_budget--> algebra

The parser of LaTeX looks ahead without a bound, so that a dozen brackets around nothing cost it seconds; sympy can be kept busy
by any length. An answer that says the same as the stored one needs no more of either than a few times what the stored one has.
"""

from __future__ import annotations

import gc
import re
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import comb
from types import FrameType
from typing import NamedTuple

MAX_DEPTH = 7  # brackets within brackets
MAX_TOKENS = 160  # commands, numbers, signs, and four letters of a word
MAX_RELATIONS = 24
MAX_BARS = 12
MAX_DIVISIONS = 6  # a/b/c or 1:2:3 in a row
MAX_POWERS = 3  # a^b^c^d in a row, without braces
MAX_EXPANSION = 500  # terms of a power of a sum
BUDGET_S = 1.0  # CPU seconds of algebra; the hardest pair of the golden sets takes about .3
AGAIN_S = 0.05
MAX_STALLED = 4096  # answers that are remembered for having spent it
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\[\s\S]|\d+(?:\.\d+)?|[^\W\d_]{1,4}|\S")
_POWER_OF_SUM = re.compile(r"[(\[{]([^()\[\]{}]{1,80})(?:\\right)?[)\]}] {0,3}\^ {0,3}\{? {0,3}(\d{1,9})")
_SMALL = re.compile(r"[\w .,+%$\\-]{0,30}")  # most answers: no bracket, power, bar or division
_SEPARATORS = frozenset(",;+-&") | {"\\\\", "\\text", "\\cdot", "\\times", "\\cup", "\\pm"}
_RELATIONS = frozenset("=<>") | {"\\le", "\\ge", "\\leq", "\\geq", "\\neq", "\\approx", "\\equiv", "\\lt", "\\gt", "\\sim"}
_BARS = frozenset(["|", "\\|", "\\vert", "\\mid", "\\lvert", "\\rvert"])
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_OPEN_TOO, _CLOSE_TOO = (
    frozenset(["\\{", "\\lbrace", "\\langle", "\\begin"]),
    frozenset(["\\}", "\\rbrace", "\\rangle", "\\end"]),
)


class AnswerSize(NamedTuple):
    """How large a text is in what the parser pays for."""

    depth: int
    tokens: int
    relations: int
    bars: int
    powers: int
    divisions: int
    expansion: int


class OutOfBudget(BaseException):
    """The CPU time is spent. No library between us and the interrupted code may take it for an error of its own."""


def shape(latex: str) -> AnswerSize:
    """Measure a text in one pass."""
    level = deepest = count = relations = bars = powers = longest = divided = most_divided = 0
    before = ""
    for match in _TOKEN.finditer(latex):
        token = match[0]
        count += 1
        if token in _OPEN or token in _OPEN_TOO:
            level += 1
            deepest = max(deepest, level)
        elif token in _CLOSE or token in _CLOSE_TOO:
            level -= 1
        elif token in _RELATIONS:
            relations += 1
        elif token in _BARS:
            bars += 1
        divided = 0 if token in _SEPARATORS or token in _RELATIONS else divided + (token in "/:")
        most_divided = max(most_divided, divided)
        # x^y^z: a power directly behind a power's exponent
        powers = powers + 1 if token == "^" else powers if before == "^" else 0
        longest, before = max(longest, powers), token
    return AnswerSize(max(deepest, -level), count, relations, bars, longest, most_divided, _expansion(latex))


def _expansion(latex: str) -> int:
    """How many terms the largest power of a sum has when it is written out."""
    sizes = ((1 + sum(match[1].count(sign) for sign in "+-"), int(match[2])) for match in _POWER_OF_SUM.finditer(latex))
    return max((comb(min(power, 10**5) + terms - 1, terms - 1) for terms, power in sizes if terms > 1), default=0)


def beyond_bounds(answer: str, reference: str) -> str | None:
    """Why the answer is too large to be another spelling of the stored one; None for one that may be judged."""
    if _SMALL.fullmatch(answer):
        return None
    found, stored = shape(answer), shape(reference)
    limits = AnswerSize(
        depth=max(MAX_DEPTH, stored.depth + 4),
        tokens=max(MAX_TOKENS, 4 * stored.tokens),
        relations=max(MAX_RELATIONS, 2 * stored.relations + 4),
        bars=max(MAX_BARS, 2 * stored.bars + 4),
        powers=max(MAX_POWERS, stored.powers + 1),
        divisions=max(MAX_DIVISIONS, stored.divisions + 2),
        expansion=max(MAX_EXPANSION, 4 * stored.expansion),
    )
    for name, size, limit in zip(AnswerSize._fields, found, limits, strict=True):
        if size > limit:
            return f"an answer of {name} {size}: at most {limit} for this stored answer"
    return None


_stalled: OrderedDict[tuple[str, str], None] = OrderedDict()


def has_stalled(reference: str, answer: str) -> bool:
    """Whether this very answer has spent the budget before: a policy that repeats itself does not pay for it twice."""
    return (reference, answer) in _stalled


def within_budget(judge: Callable[[], bool], probe: Callable[[], object], key: tuple[str, str]) -> bool | None:
    """The verdict of `judge`; None if it takes more than BUDGET_S of CPU time while `probe`, a harmless answer, does not.

    A stored answer that is slow by itself is judged without a budget: then the pool's deadline decides. key: stored answer and
    answer, by which `has_stalled` knows it again.
    """
    try:
        with _budget(BUDGET_S):
            return judge()
    except OutOfBudget:
        pass
    try:
        with _budget(BUDGET_S):
            probe()
    except OutOfBudget:
        return judge()
    _stalled[key] = None
    if len(_stalled) > MAX_STALLED:
        _stalled.popitem(last=False)
    return None


@contextmanager
def _budget(seconds: float) -> Iterator[None]:
    """Raise OutOfBudget in this thread after so much CPU time of the process. Only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        # what a callback of the garbage collector raises is printed, and lost
        collecting = frame is not None and frame.f_code in {getattr(callback, "__code__", None) for callback in gc.callbacks}
        if armed and not collecting:
            raise OutOfBudget

    before = signal.signal(signal.SIGPROF, interrupt)
    # again and again, because a library may swallow the first
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_S)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
