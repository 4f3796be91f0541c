r"""Comparison by value, with sympy and math-verify (Apache-2.0), for answers that exact rules cannot tell apart.

Imports of both are inside the functions, because they take a second. The settings come from the library's mistakes:
  - percent signs and units are taken off before: under hydra's antlr `25\%` parses to a bare string, and units are ignored;
  - `allow_set_relation_comp`, so that x \in (1,2) is the interval (1,2);
  - constants are compared in constants.py, decimals as the fractions that they are: its rounding takes .1 for .1000001;
  - functions by cases are compared in piecewise.py, because it reads all of them as 0;
  - no time limits of its own, which use SIGALRM and a BaseException. The pool owns the deadline.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ...common.json_object import JsonObject
from .constants import as_fraction, same_constant
from .counting import without_counts
from .integrals import same_antiderivative
from .piecewise import same_cases
from .real_points import equal_at_real_points

_HUGE = re.compile(r"\^\{?[-+]?\d{7,}|\d{5,}\)?!|!\)?!\)?!|!\)!|\d\)?\^\{?\(?-?(?:[3-9]|\d{2,9})\^\{?\d{1,9}\^")
_DEGREES = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\^\\circ")
_CAPITALS = "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega"
_NAME = re.compile(  # group 1: the name of a variable
    rf"\\(?:text|mathrm|operatorname|begin|end)\s*\{{[^{{}}]*\}}|\\mathbb\s*\{{?[A-Z]|"
    rf"(\\(?:{_CAPITALS}|{_CAPITALS.lower()})(?![a-zA-Z])|[a-zA-Z])|\\[a-zA-Z]+"
)


def load_algebra() -> None:
    """Import sympy and the LaTeX grammar, which takes a second; with what sympy itself imports when it first compares."""
    import math_verify  # noqa: F401

    for reference, answer in (("2\\sqrt{3}", "\\sqrt{3}"), ("x^2+1", "(x+1)^2")):
        equal_by_algebra(reference, answer)


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
    reference, answer = without_counts(reference), without_counts(answer)
    if "\\begin{cases}" in reference or "\\begin{cases}" in answer:
        return same_cases(reference, answer, parsed)
    if (same := same_antiderivative(reference, answer, equal_by_algebra, parsed)) is not None:
        return same
    expected, found = (
        parsed(_DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)) for text in _rename_capitals(reference, answer)
    )
    if expected and found and (same := same_constant(expected[0], found[0])) is not None:
        return same
    options: JsonObject = {"float_rounding": 12, "allow_set_relation_comp": True, "timeout_seconds": None}
    if verify(expected, found, **options):
        return True
    return bool(expected and found) and equal_at_real_points(expected[0], found[0])


def _rename_capitals(*texts: str) -> list[str]:
    """Give capitals whose small letters occur too a name of their own: the parser would take R - r for r - r."""
    found = {match[1] for text in texts for match in _NAME.finditer(text) if match[1]}
    unused = iter(sorted(set("abcdfghjklmnopqrstuvwxyz") - {name.lower() for name in found}))
    capitals = sorted(name for name in found if name.lower() != name and name.lower() in found)
    renamed = dict(zip(capitals, unused, strict=False))
    return [_NAME.sub(lambda match: f"{{{renamed[match[1]]}}}" if match[1] in renamed else match[0], text) for text in texts]


def constant_value(text: str) -> Fraction | None:
    """The value of a constant such as \\sqrt{2}, to 20 digits; None for anything else."""
    found = parsed(text)
    return as_fraction(found[0]) if found else None
