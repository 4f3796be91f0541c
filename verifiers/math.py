r"""`math` and `number`: is the final answer mathematically the stored one?

The last balanced \boxed{...} behind the thinking counts, nothing else. Equal strings and plain numbers are decided here,
exactly and without importing sympy; the rest goes to math-verify (Apache-2.0) with the settings that its mistakes taught:
  - percent signs are taken out first, because under hydra's antlr `25\%` parses to a bare string;
  - `allow_set_relation_comp`, so that x \in (1,2) is the interval (1,2);
  - no rounding beyond what is asked for: with its default, .1 equals .1000001;
  - no time limits of its own: they use SIGALRM and a BaseException. The pool owns the deadline.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from ..common.errors import DataError
from .answer import after_thinking, last_boxed, last_number, last_tagged
from .base import Score, Task, Verifier

MAX_ANSWER_CHARS = 2000
HARMLESS = "\\boxed{\\frac{355}{113}}"
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_TIMES_TEN = re.compile(r"([-+]?[\d.]+)(?:\\times|\\cdot|\*|\u00d7)10\^\{?([-+]?\d{1,3})\}?")
_FRACTION = re.compile(r"([-+]?)\\[dtc]?frac\{([-+]?\d+)\}\{([-+]?\d+)\}|([-+]?\d+)/(\d+)")
_SHORT_FRACTION = re.compile(r"\\([dt]?)frac(\d)(\d)")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NOISE = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|qquad|\s)|[\s$]|~")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?:\\(?:text|mathrm|textrm|mbox)\s*\{\s*|[\d}]\s+)([a-zA-Z]+)\s*\}?$")
UNITS = {  # spellings -> unit; two different ones never agree, whatever the number
    **dict.fromkeys(["mm", "millimeter", "millimetre"], "mm"),
    **dict.fromkeys(["cm", "centimeter", "centimetre"], "cm"),
    **dict.fromkeys(["m", "meter", "metre"], "m"),
    **dict.fromkeys(["km", "kilometer", "kilometre"], "km"),
    **dict.fromkeys(["in", "inch", "inche"], "in"),
    **dict.fromkeys(["ft", "foot", "feet"], "ft"),
    **dict.fromkeys(["mi", "mile"], "mi"),
    **dict.fromkeys(["mg", "milligram"], "mg"),
    **dict.fromkeys(["g", "gram"], "g"),
    **dict.fromkeys(["kg", "kilogram"], "kg"),
    **dict.fromkeys(["ms", "millisecond"], "ms"),
    **dict.fromkeys(["s", "sec", "second"], "s"),
    **dict.fromkeys(["min", "minute"], "min"),
    **dict.fromkeys(["h", "hr", "hour"], "h"),
    **dict.fromkeys(["day"], "day"),
    **dict.fromkeys(["cent"], "cent"),
    **dict.fromkeys(["dollar"], "dollar"),
}
_ROOT_AFTER_NUMBER = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+))")


def clean(latex: str) -> str:
    """The same answer without spacing, dollar signs, sizing commands and a final full stop."""
    text = _NOISE.sub("", _TEXT.sub(r"\1", latex)).replace("{,}", ",").replace("{:}", ":").replace("\u2212", "-")
    text = _SHORT_FRACTION.sub(r"\\\1frac{\2}{\3}", text).replace("dfrac", "frac").replace("tfrac", "frac")
    return text.rstrip(".")


def number(text: str) -> Fraction | None:
    """The exact value of a cleaned plain number, a fraction of integers, a x 10^n; None for anything else."""
    if len(text) > 400:
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if match := _FRACTION.fullmatch(text):
        sign, top, bottom, plain_top, plain_bottom = match.groups()
        denominator = int(bottom or plain_bottom)
        value = Fraction(int(top or plain_top), denominator) if denominator else None
        return -value if value is not None and sign == "-" else value
    if match := _TIMES_TEN.fullmatch(text):
        text = f"{match.group(1)}e{match.group(2)}"
    if not _PLAIN.fullmatch(text):
        return None
    try:
        return Fraction(Decimal(text))
    except (InvalidOperation, ValueError):
        return None


def unit(latex: str) -> str | None:
    """The known unit that an answer ends with, if any."""
    match = _UNIT.search(latex.strip().rstrip("."))
    word = match.group(1) if match else ""
    return UNITS.get(word) or UNITS.get(word.lower().removesuffix("s"))


def split_percent(text: str) -> tuple[str, bool]:
    """A cleaned answer without its percent sign, and whether it had one."""
    bare = text.replace("\\%", "%").removesuffix("percent")
    return bare.removesuffix("%"), bare.endswith("%") or bare != text.replace("\\%", "%")


def compare_quickly(gold: str, given: str) -> bool | None:
    """Equal, different, or None when it takes algebra to tell."""
    if (wanted := unit(gold)) and (got := unit(given)) and wanted != got:
        return False
    gold, given = clean(gold), clean(given)
    if gold == given:
        return True
    (gold, gold_percent), (given, given_percent) = split_percent(gold), split_percent(given)
    a, b = number(gold), number(given)
    if a is None or b is None:
        return True if gold == given and gold_percent != given_percent and a is not None else None
    if gold_percent == given_percent:
        return a == b
    return a == b or (a / 100 == b if gold_percent else a == b / 100)


def extract(task: Task) -> str | None:
    return last_boxed(after_thinking(task))


def gold_of(answer: dict[str, Any]) -> str:
    r"""The stored answer, out of its own \boxed{} if it has one."""
    text = str(answer["answer"])
    return last_boxed(text) or text


def quick(task: Task) -> Score | None:
    given = extract(task)
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no balanced \\boxed{} behind the thinking")
    if not given:
        return Score(reward=0.0, status="no_answer", detail="an empty box")
    gold = gold_of(task.answer)
    if len(given) > max(MAX_ANSWER_CHARS, 4 * len(gold)):
        return Score(reward=0.0, status="input_rejected", detail=f"a boxed answer of {len(given)} characters")
    verdict = compare_quickly(gold, given)
    return None if verdict is None else Score(reward=float(verdict), metrics={"quick": 1.0})


def load() -> None:
    import math_verify  # noqa: F401  a second: sympy and the LaTeX grammar

    _parsed("1+1")


def _parsed(latex: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    text, _ = split_percent(_ROOT_AFTER_NUMBER.sub(r"\\sqrt{\1\2}", latex).replace("{:}", ":").strip())
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(f"\\boxed{{{text}}}", targets, parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def score(task: Task) -> Score:
    """Algebraic comparison by math-verify."""
    from math_verify import verify

    gold, given = _parsed(gold_of(task.answer)), _parsed(extract(task) or "")
    options: dict[str, Any] = {"float_rounding": 12, "allow_set_relation_comp": True, "timeout_seconds": None}
    metrics = {"quick": 0.0, "gold_unparsed": float(not gold)}  # then only an equal text is right
    return Score(reward=float(verify(gold, given, **options)), metrics=metrics)


def probe(answer: dict[str, Any]) -> None:
    """The stored answer against a harmless other one: against itself it would be equal unread."""
    score(Task(completion=HARMLESS, answer=answer))


def check(answer: dict[str, Any]) -> None:
    value = answer.get("answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value).strip() == "":
        raise DataError(f'verifier math: got answer {answer!r}; expected {{"answer": a number or LaTeX text}}')


def check_number(answer: dict[str, Any]) -> None:
    check(answer)
    if number(clean(gold_of(answer))) is None:
        raise DataError(
            f'verifier number: got answer {answer["answer"]!r}; expected a plain number such as "932", "-1.5" or "2/3"'
        )


def score_number(task: Task) -> Score:
    """The boxed or tagged answer, else the last number behind the thinking, equals the stored number (within `tolerance`).

    A text that was cut off has no last number: it may be half of one, and the token limit chose where it stands.
    """
    text = after_thinking(task)
    given = last_boxed(text) or last_tagged(text) or (None if task.cut_off else last_number(text))
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no number behind the thinking")
    value, gold = number(clean(given)), number(clean(gold_of(task.answer)))
    tolerance = Fraction(Decimal(str(task.answer.get("tolerance", 0))))
    if value is None or gold is None:
        return Score(reward=0.0, status="ok", detail="not a plain number")
    return Score(reward=float(abs(value - gold) <= tolerance))


MATH = Verifier(check=check, quick=quick, load=load, score=score, probe=probe)
NUMBER = Verifier(check=check_number, quick=score_number, score=score_number, probe=check_number)
