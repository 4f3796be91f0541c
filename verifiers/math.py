r"""`math` and `number`: is the final answer mathematically the stored one?

The last balanced \boxed{...} behind the thinking counts, nothing else. What is equal or different beyond doubt (texts, numbers,
units, choices, brackets) is decided by `compare.py` without importing sympy; for the rest math-verify (Apache-2.0) is asked,
part by part, with the settings that its mistakes taught:
  - percent signs and units are taken off first: under hydra's antlr `25\%` parses to a bare string, and units are ignored;
  - `allow_set_relation_comp`, so that x \in (1,2) is the interval (1,2);
  - constants are compared to 50 digits here, decimals as the fractions that they are: its rounding takes .1 for .1000001;
  - no time limits of its own: they use SIGALRM and a BaseException. The pool owns the deadline.
A stored answer with a unit is also met by the bare number, and 25\% by 25 and 0.25: published sets are inconsistent there.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import inf
from typing import Any

from ..common.errors import DataError
from .answers.comparison import agree
from .answers.extraction import after_thinking, last_boxed, last_number, last_tagged
from .answers.numbers import number
from .answers.quantity import read
from .answers.spelling import clean
from .answers.structure import assigned
from .api import Score, Task, Verifier

MAX_ANSWER_CHARS = 2000
HARMLESS = "\\boxed{\\frac{355}{113}}"
_HUGE = re.compile(r"\^\{?[-+]?\d{7,}|\d{5,}\)?!|!\)?!\)?!|!\)!|\d\)?\^\{?\(?-?(?:[3-9]|\d{2,9})\^\{?\d{1,9}\^")
_DEGREES = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\^\\circ")
_CAPITALS = "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega"
_NAME = re.compile(  # of a variable, in group 1
    rf"\\(?:text|mathrm|operatorname|begin|end)\s*\{{[^{{}}]*\}}|\\mathbb\s*\{{?[A-Z]|"
    rf"(\\(?:{_CAPITALS}|{_CAPITALS.lower()})(?![a-zA-Z])|[a-zA-Z])|\\[a-zA-Z]+"
)
DIGITS = 100  # that sympy may spend on the difference of two constants


def extract(task: Task) -> str | None:
    return last_boxed(after_thinking(task))


def gold_of(answer: dict[str, Any]) -> str:
    r"""The stored answer, out of its own \boxed{} if it has one."""
    text = str(answer["answer"])
    return last_boxed(text) or text


def refused(given: str | None, gold: str) -> Score | None:
    """The verdict on an answer that is missing, empty or too long to be worth a look."""
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no balanced \\boxed{} behind the thinking")
    if not given:
        return Score(reward=0.0, status="no_answer", detail="an empty box")
    if len(given) > max(MAX_ANSWER_CHARS, 4 * len(gold)):
        return Score(reward=0.0, status="input_rejected", detail=f"a boxed answer of {len(given)} characters")
    return None


def quick(task: Task) -> Score | None:
    given, gold = extract(task), gold_of(task.answer)
    if (score := refused(given, gold)) is not None:
        return score
    verdict = agree(gold, given or "")
    if verdict is None and huge(gold, given or ""):
        return Score(reward=0.0, status="input_rejected", detail="a number too large to be worked out")
    return None if verdict is None else Score(reward=float(verdict), metrics={"quick": 1.0})


def huge(gold: str, given: str) -> bool:
    """Towers of powers, factorials of factorials: they would stall the judge until its deadline, twice."""
    return bool(_HUGE.search(given.replace(" ", ""))) and not _HUGE.search(gold.replace(" ", ""))


def load() -> None:
    import math_verify  # noqa: F401  a second: sympy and the LaTeX grammar

    parsed("1+1")


@lru_cache(maxsize=256)  # the rollouts of a group share their stored answer
def parsed(latex: str) -> list[Any]:
    """What math-verify makes of an answer: an expression, a text, or nothing."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    targets = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=spelling), ExprExtractionConfig()]
    return parse(f"\\boxed{{{latex}}}", targets, parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def algebra(gold: str, given: str) -> bool:
    """Comparison by value for constants, by math-verify for the rest."""
    from math_verify import verify

    if gold.count("'") != given.count("'"):  # the parser drops primes
        return False
    mine, theirs = (parsed(_DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)) for text in _two_cases(gold, given))
    if mine and theirs and (same := same_constant(mine[0], theirs[0])) is not None:
        return same
    options: dict[str, Any] = {"float_rounding": 12, "allow_set_relation_comp": True, "timeout_seconds": None}
    return bool(verify(mine, theirs, **options))


def _two_cases(*texts: str) -> list[str]:
    """With other names for capitals whose small letters occur too: the parser would take R - r for r - r."""
    found = {match[1] for text in texts for match in _NAME.finditer(text) if match[1]}
    unused = iter(sorted(set("abcdfghjklmnopqrstuvwxyz") - {name.lower() for name in found}))
    capitals = sorted(name for name in found if name.lower() != name and name.lower() in found)
    instead = dict(zip(capitals, unused, strict=False))
    return [_NAME.sub(lambda match: f"{{{instead[match[1]]}}}" if match[1] in instead else match[0], text) for text in texts]


def same_constant(a: Any, b: Any) -> bool | None:
    """Whether two numbers are equal, decimals taken as the fractions that they are; None for what is no number."""
    import sympy

    a, b = (_complex(one) for one in (a, b))
    if not all(isinstance(one, sympy.Expr) and one.is_number and one.is_finite is not False for one in (a, b)):
        return None
    x, y = (one.xreplace({f: sympy.Rational(str(f)) for f in one.atoms(sympy.Float)}).doit() for one in (a, b))
    if x.is_Rational and y.is_Rational:
        return bool(x == y)
    gap, size = (_largest_part(one, DIGITS) for one in (x - y, sympy.Abs(x) + sympy.Abs(y)))
    return None if gap is None or size is None else bool(gap <= size * sympy.Rational(1, 10 ** (DIGITS // 2)))


def _largest_part(constant: Any, digits: int) -> Any:
    """The larger one of |real part| and |imaginary part|, or None for what has no finite value."""
    parts = [abs(part) for part in constant.evalf(15, maxn=digits).as_real_imag()]
    return max(parts) if all(part.is_Float or part.is_Rational for part in parts) else None


def _complex(found: Any) -> Any:
    """With i for the imaginary unit where it is the only name."""
    import sympy

    names = found.free_symbols if isinstance(found, sympy.Expr) else set()
    return found.xreplace(dict.fromkeys(names, sympy.I)) if set(map(str, names)) == {"i"} else found


def score(task: Task) -> Score:
    """Exact comparison, with algebra where it takes it."""
    gold, given = gold_of(task.answer), extract(task) or ""
    return Score(reward=float(bool(agree(gold, given, algebra))), metrics={"quick": 0.0})


def probe(answer: dict[str, Any]) -> None:
    """The stored answer against a harmless other one: against itself it would be equal unread."""
    score(Task(completion=HARMLESS, answer=answer))


def check(answer: dict[str, Any]) -> None:
    value = answer.get("answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value).strip() == "":
        raise DataError(f'verifier math: got answer {answer!r}; expected {{"answer": a number or LaTeX text}}')


def check_number(answer: dict[str, Any]) -> None:
    check(answer)
    tolerance = answer.get("tolerance", 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < inf:
        raise DataError(f"verifier number: got tolerance {tolerance!r}; expected a number of at least 0")
    if number(clean(gold_of(answer))) is None:
        raise DataError(
            f'verifier number: got answer {answer["answer"]!r}; expected a plain number such as "932", "-1.5" or "2/3"'
        )


def score_number(task: Task) -> Score:
    """The boxed or tagged answer, else the last number behind the thinking, equals the stored number (within `tolerance`).

    A name before it and a unit behind it are left out: x = 18, \\$18 and 18 \\text{ dollars} are 18.

    A text that was cut off has no last number: it may be half of one, and the token limit chose where it stands.
    """
    text = after_thinking(task)
    given = last_boxed(text) or last_tagged(text) or (None if task.cut_off else last_number(text))
    if given is None:
        return Score(reward=0.0, status="no_answer", detail="no number behind the thinking")
    if len(given) > MAX_ANSWER_CHARS:
        return Score(reward=0.0, status="input_rejected", detail=f"an answer of {len(given)} characters")
    named = assigned(clean(given))
    value, gold = read(named[1] if named else given).number, number(clean(gold_of(task.answer)))
    tolerance = Fraction(Decimal(str(task.answer.get("tolerance", 0))))
    if value is None or gold is None:
        return Score(reward=0.0, status="ok", detail="not a plain number")
    return Score(reward=float(abs(value - gold) <= tolerance))


MATH = Verifier(check=check, quick=quick, load=load, score=score, probe=probe)
NUMBER = Verifier(check=check_number, quick=score_number, score=score_number, probe=check_number)
