r"""Comparison by value, with sympy and math-verify (Apache-2.0), for answers that exact rules cannot tell apart.

Imports of both are inside the functions, because they take a second. The settings come from the library's mistakes:
  - percent signs and units are taken off before: under hydra's antlr `25\%` parses to a bare string, and units are ignored;
  - `allow_set_relation_comp`, so that x \in (1,2) is the interval (1,2);
  - constants are compared to 50 digits here, decimals as the fractions that they are: its rounding takes .1 for .1000001;
  - no time limits of its own, which use SIGALRM and a BaseException. The pool owns the deadline.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ...common.json_object import JsonObject

DIGITS = 100  # digits that sympy may compute of the difference of two constants
_HUGE = re.compile(r"\^\{?[-+]?\d{7,}|\d{5,}\)?!|!\)?!\)?!|!\)!|\d\)?\^\{?\(?-?(?:[3-9]|\d{2,9})\^\{?\d{1,9}\^")
_DEGREES = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\^\\circ")
_CAPITALS = "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega"
_NAME = re.compile(  # group 1: the name of a variable
    rf"\\(?:text|mathrm|operatorname|begin|end)\s*\{{[^{{}}]*\}}|\\mathbb\s*\{{?[A-Z]|"
    rf"(\\(?:{_CAPITALS}|{_CAPITALS.lower()})(?![a-zA-Z])|[a-zA-Z])|\\[a-zA-Z]+"
)


def load_algebra() -> None:
    """Import sympy and the LaTeX grammar, which takes a second."""
    import math_verify  # noqa: F401

    parsed("1+1")


def has_huge_number(reference: str, answer: str) -> bool:
    """Whether the answer holds towers of powers or factorials of factorials, which stall sympy, and the reference does not."""
    return bool(_HUGE.search(answer.replace(" ", ""))) and not _HUGE.search(reference.replace(" ", ""))


@lru_cache(maxsize=256)  # the rollouts of a group share their stored answer
def parsed(latex: str) -> list[Any]:
    """Parse an answer with math-verify: [expression, text], or [] for an answer that it cannot read."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    targets = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=spelling), ExprExtractionConfig()]
    return parse(f"\\boxed{{{latex}}}", targets, parsing_timeout=None)  # pyright: ignore[reportArgumentType]


def equal_by_algebra(reference: str, answer: str) -> bool:
    """Compare two LaTeX texts: constants by value, everything else by math-verify."""
    from math_verify import verify

    if reference.count("'") != answer.count("'"):  # the parser drops primes
        return False
    expected, found = (
        parsed(_DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)) for text in _rename_capitals(reference, answer)
    )
    if expected and found and (same := same_constant(expected[0], found[0])) is not None:
        return same
    options: JsonObject = {"float_rounding": 12, "allow_set_relation_comp": True, "timeout_seconds": None}
    return bool(verify(expected, found, **options))


def _rename_capitals(*texts: str) -> list[str]:
    """Give capitals whose small letters occur too a name of their own: the parser would take R - r for r - r."""
    found = {match[1] for text in texts for match in _NAME.finditer(text) if match[1]}
    unused = iter(sorted(set("abcdfghjklmnopqrstuvwxyz") - {name.lower() for name in found}))
    capitals = sorted(name for name in found if name.lower() != name and name.lower() in found)
    renamed = dict(zip(capitals, unused, strict=False))
    return [_NAME.sub(lambda match: f"{{{renamed[match[1]]}}}" if match[1] in renamed else match[0], text) for text in texts]


def same_constant(a: Any, b: Any) -> bool | None:
    """Whether two numbers are equal, decimals taken as the fractions that they are; None where one is not a number."""
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
    """The larger of |real part| and |imaginary part|; None where the value is not finite."""
    parts = [abs(part) for part in constant.evalf(15, maxn=digits).as_real_imag()]
    return max(parts) if all(part.is_Float or part.is_Rational for part in parts) else None


def _complex(found: Any) -> Any:
    """Read i as the imaginary unit where it is the only name."""
    import sympy

    names = found.free_symbols if isinstance(found, sympy.Expr) else set()
    return found.xreplace(dict.fromkeys(names, sympy.I)) if set(map(str, names)) == {"i"} else found


def constant_value(text: str) -> Fraction | None:
    """The value of a constant such as \\sqrt{2}, to 20 digits; None for anything else."""
    import sympy

    found = parsed(text)
    if not found or not isinstance(found[0], sympy.Expr) or not found[0].is_number:
        return None
    number = found[0].doit().evalf(20)
    return Fraction(str(number)) if number.is_Float and number.is_finite else None
