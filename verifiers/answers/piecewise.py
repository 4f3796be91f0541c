r"""Functions given by cases, \begin{cases} x & x \ge 0 \\ -x & x < 0 \end{cases}, compared with each other and with formulas.

The bounds in the conditions, and the zeros of absolute values, cut the line into pieces; both functions must agree in several
points of every piece and at every bound, and be undefined at the same points.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .constants import same_constant
from .spelling import split_top

if TYPE_CHECKING:
    import sympy

Parse = Callable[[str], list[object]]
Values = dict["sympy.Basic", "sympy.Expr"]
MAX_ROWS = 8
MAX_BOUNDS = 16
POINTS_IN_A_PIECE = 5
_CASES = re.compile(r"(?:[a-zA-Z]\([a-z]\) ?= ?)?\\begin ?\{cases\}(.*)\\end ?\{cases\}", re.DOTALL)
_WORDS = re.compile(r"(?<![a-zA-Z\\])(?:if|for|when|where|and|with)(?![a-zA-Z])")
_OTHERWISE = re.compile(r"(?:otherwise|else|elsewhere|in all other cases)[. ]*")
_SIGN = re.compile(r"(<|>|\\leq?(?![a-z])|\\geq?(?![a-z])|\\neq?(?![a-z])|=)")
_NAMES = {"\\leq": "\\le", "\\geq": "\\ge", "\\ne": "\\neq"}


class Case(NamedTuple):
    """A row: the value, and the comparisons that must all hold; no comparisons: everywhere else."""

    value: sympy.Expr
    comparisons: tuple[tuple[sympy.Expr, str, sympy.Expr], ...]


def same_cases(reference: str, answer: str, parse: Parse) -> bool:
    """Whether two functions, of which one at least is given by cases, are the same. False where one cannot be read."""
    import sympy

    x, y = _cases(reference, parse), _cases(answer, parse)
    if x is None or y is None:
        return False
    names = {name for case in (*x, *y) for side in case.comparisons for one in (side[0], side[2]) for name in one.free_symbols}
    others = {name for case in (*x, *y) for name in case.value.free_symbols} - names
    if len(names) != 1:
        return False
    (name,) = names
    fixed: Values = {other: sympy.Integer(257 + 31 * at) / 101 for at, other in enumerate(sorted(others, key=str))}
    bounds = _bounds(name, fixed, (*x, *y))
    if bounds is None:
        return False
    for point in _points(bounds):
        at = {**fixed, name: point}
        p, q = _value(x, at), _value(y, at)
        if (p is None) != (q is None) or (p is not None and same_constant(p, q) is not True):
            return False
    return True


def _cases(text: str, parse: Parse) -> list[Case] | None:
    """The rows of a text; a formula has one row without comparisons."""
    import sympy

    match = _CASES.fullmatch(text.strip())
    rows = [row for row in match[1].split("\\\\") if row.strip(" ,;.")] if match else [text]
    if len(rows) > MAX_ROWS or (match is None and "\\begin" in text):
        return None
    found: list[Case] = []
    for row in rows:
        value, _, condition = row.partition("&")
        if match and not condition:
            value, _, condition = _split_row(row)
        parsed = parse(value.strip(" ,;."))
        comparisons = _comparisons(condition, parse) if match else ()
        if not parsed or not isinstance(parsed[0], sympy.Expr) or comparisons is None:
            return None
        found.append(Case(parsed[0], comparisons))
    return found


def _split_row(row: str) -> tuple[str, str, str]:
    """Value and condition of a row without &: x, x > 0, and x if x > 0."""
    if match := _WORDS.search(row):
        return row[: match.start()], "", row[match.end() :]
    pieces = split_top(row, ",")
    return pieces[0], "", ",".join(pieces[1:])


def _comparisons(text: str, parse: Parse) -> tuple[tuple[sympy.Expr, str, sympy.Expr], ...] | None:
    import sympy

    text = _WORDS.sub(" ", text).strip(" ,;.&")
    if _OTHERWISE.fullmatch(text):
        return ()
    sides = [one.strip() for one in _SIGN.split(text)]
    if not 3 <= len(sides) <= 5:
        return None
    values = [parse(side) for side in sides[::2]]
    if not all(value and isinstance(value[0], sympy.Expr) for value in values):
        return None
    found = [value[0] for value in values]
    signs = [_NAMES.get(sign, sign) for sign in sides[1::2]]
    return tuple((found[at], sign, found[at + 1]) for at, sign in enumerate(signs))  # pyright: ignore[reportReturnType]


def _bounds(name: sympy.Basic, fixed: Values, cases: tuple[Case, ...]) -> list[sympy.Expr] | None:
    """The places where one of both functions may change its formula, in order; None where they are too many."""
    import sympy

    zeros: set[sympy.Expr] = set()
    differences = [low - high for case in cases for low, _, high in case.comparisons]
    for case in cases:
        differences += [one.args[0] for one in case.value.atoms(sympy.Abs, sympy.sign)]
        differences += [_at(one.args[0], {}) - _at(one.args[-1], {}) for one in case.value.atoms(sympy.Max, sympy.Min)]
    for difference in differences:
        known = _at(difference, fixed)
        polynomial = sympy.Poly(known, name) if known.is_polynomial(name) else None
        if polynomial is None or polynomial.degree() > 2:
            return None
        zeros |= {root for root in sympy.roots(polynomial) if root.is_real}
    return sorted(zeros, key=float) if len(zeros) <= MAX_BOUNDS else None


def _points(bounds: list[sympy.Expr]) -> list[sympy.Expr]:
    """Every bound, and points of every piece between them."""
    import sympy

    if not bounds:
        return [sympy.Rational(37 * at - 91, 23) for at in range(2 * POINTS_IN_A_PIECE)]
    steps = [sympy.Rational(7 + 13 * at, 71 - at) for at in range(POINTS_IN_A_PIECE)]
    found = [bounds[0] - 3 * step for step in steps] + [bounds[-1] + 3 * step for step in steps]
    for low, high in pairwise(bounds):
        found += [low + (high - low) * step for step in steps]
    return [*bounds, *found]


def _value(cases: list[Case], at: Values) -> sympy.Expr | None:
    """The value at a point; None where no row holds."""
    for case in cases:
        if all(_holds(_at(low, at), sign, _at(high, at)) for low, sign, high in case.comparisons):
            return _at(case.value, at)
    return None


def _at(found: sympy.Basic, values: Values) -> sympy.Expr:
    import sympy

    replaced = found.xreplace(values)
    return replaced if isinstance(replaced, sympy.Expr) else sympy.nan


def _holds(low: sympy.Expr, sign: str, high: sympy.Expr) -> bool:
    if same_constant(low, high):
        return sign in ("=", "\\le", "\\ge")
    gap = (high - low).evalf(20)
    below = bool(gap.is_real and gap > 0)
    return sign == "\\neq" or (below if sign in ("<", "\\le") else not below and sign in (">", "\\ge"))
