"""Comparison of constants such as cos 36 degrees and (1 + sqrt 5)/4: exact where sympy can tell, else to hundreds of digits.

The difference is worked out, not the two values, because its leading digits say whether it is zero: 1 - e^(-300) is not 1.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from .plain_numbers import LONG, cut_off

if TYPE_CHECKING:
    import sympy

# digits that may vanish in a difference before it counts as zero; sums and integrals cost too much for the second
DIGITS = (100, 500)


def same_constant(a: object, b: object) -> bool | None:
    """Whether two numbers are equal, decimals taken as the fractions that they are; None where one is not a number.

    A decimal of 13 digits or more is met by the constant that it rounds, unless it is a whole number.
    """
    import sympy

    x, y = _imaginary(a), _imaginary(b)
    if not all(isinstance(one, sympy.Expr) and one.is_number and one.is_finite is not False for one in (x, y)):
        return None
    for value, decimal in ((x, y), (y, x)):
        if (places := _places(decimal)) is not None and not value.is_Float and not value.is_Rational:
            return _rounds(value, decimal, places)
    x, y = _exact(x), _exact(y)
    return bool(x == y) if x.is_Rational and y.is_Rational else _is_zero(x - y)


def _imaginary(found: object) -> sympy.Expr:
    """Read i as the imaginary unit where it is the only name, and \\zeta as the function that it names."""
    import sympy
    from sympy.core.function import AppliedUndef

    if not isinstance(found, sympy.Expr):
        return sympy.nan
    if named := [one for one in found.atoms(AppliedUndef) if one.func.__name__ == "\\zeta" and len(one.args) == 1]:
        found = found.xreplace({one: sympy.zeta(one.args[0]) for one in named})
    names = found.free_symbols
    if set(map(str, names)) == {"i"}:
        found = found.xreplace(dict.fromkeys(names, sympy.I))
    return found if isinstance(found, sympy.Expr) else sympy.nan


def _places(value: sympy.Expr) -> int | None:
    """How many digits behind the point a decimal of 13 digits or more has; None for others, and for whole numbers."""
    text = str(value)
    digits = text.replace("-", "").replace(".", "").lstrip("0").rstrip("0")
    return len(text.partition(".")[2].rstrip("0")) if value.is_Float and "e" not in text and len(digits) >= LONG else None


def _rounds(value: sympy.Expr, decimal: sympy.Expr, places: int) -> bool | None:
    found = as_fraction(value, places + 20)
    return None if found is None else cut_off(found, Fraction(str(decimal)), places)


def _exact(value: sympy.Expr) -> sympy.Expr:
    import sympy

    return value.xreplace({one: sympy.Rational(str(one)) for one in value.atoms(sympy.Float)}).doit()


def _is_zero(gap: sympy.Expr) -> bool | None:
    import sympy

    verdict = None
    for limit in DIGITS:
        if gap.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit) and limit > DIGITS[0]:
            return True
        verdict = _vanishes(gap, limit)
        if verdict is not True:
            return verdict
    return verdict


def _vanishes(gap: sympy.Expr, digits: int) -> bool | None:
    """Whether a difference is zero as far as `digits` digits can tell; None where it is not finite."""
    from sympy.core.evalf import PrecisionExhausted

    if gap == 0:
        return True
    try:
        found = gap.evalf(5, maxn=digits, strict=True)
    except PrecisionExhausted:
        return True
    parts = found.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    return all(part == 0 for part in parts)


def as_fraction(value: object, digits: int = 20) -> Fraction | None:
    """The value of a real constant, to so many digits; None for anything else."""
    import sympy

    if not isinstance(value, sympy.Expr) or not value.is_number:
        return None
    number = value.doit().evalf(digits)
    return Fraction(str(number)) if number.is_Float and number.is_finite else None
