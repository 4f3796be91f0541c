r"""Antiderivatives: x^2/2 + C and C + x^2/2 are one family, whatever the constant is called.

The constant may be left out in one of both: a stored antiderivative names a family, and a completion may name its member.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Equal = Callable[[str, str], bool]
Parse = Callable[[str], list[object]]
_CONSTANT = r"(?:C(?:_\{?[01]\}?)?|c(?:_\{?[01]\}?)?|K|k|const(?:ant|\.)?)"
_BEHIND = re.compile(rf"(?P<rest>.{{1,400}}[^\^+\-*/ ]) ?\+ ?(?P<constant>{_CONSTANT})")
_BEFORE = re.compile(rf"(?P<constant>{_CONSTANT}) ?(?=[+-])(?P<rest>.{{2,400}})")
_VARIABLE = re.compile(r"(?<![a-zA-Z\\])[xtuyzsvwr](?![a-zA-Z])|\\theta")


def same_antiderivative(reference: str, answer: str, equal: Equal, parse: Parse) -> bool | None:
    """Compare two formulas up to a constant where one of both ends in + C; None where none does."""
    stored, given = without_constant(reference), without_constant(answer)
    if stored is None and given is None:
        return None
    stored_rest, given_rest = stored or reference, given or answer
    if "=" in reference + answer or not _VARIABLE.search(stored_rest) or not _VARIABLE.search(given_rest):
        return None
    if equal(stored_rest, given_rest):
        return True
    return _differ_by_a_number(parse(stored_rest), parse(given_rest)) if stored and given else False


def without_constant(text: str) -> str | None:
    """The formula before or behind a constant of integration; None where there is none, or its letter occurs elsewhere."""
    match = _BEHIND.fullmatch(text) or _BEFORE.fullmatch(text)
    if not match or re.search(rf"(?<![a-zA-Z\\]){re.escape(match['constant'][:1])}(?![a-zA-Z])", match["rest"]):
        return None
    return match["rest"].strip().removeprefix("+")


def _differ_by_a_number(a: list[object], b: list[object]) -> bool:
    import sympy

    if not a or not b or not isinstance(a[0], sympy.Expr) or not isinstance(b[0], sympy.Expr):
        return False
    gap = sympy.simplify(a[0] - b[0])
    return not gap.free_symbols and bool(gap.is_finite)
