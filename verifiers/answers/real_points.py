"""Equality of two expressions at sampled real points, for what sympy's rules leave open: sqrt(2/k) and sqrt(2)/sqrt(k).

Both must agree at every point where both are real all the way, and where all names are positive. So |x| is not x, which differ
at -1, while sqrt(ab) is sqrt(a)sqrt(b), of which one is not defined where a and b are negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sympy

MAX_NAMES = 5
MAX_NODES = 200
DIGITS = 40
POSITIVE_POINTS, SIGNED_POINTS = 6, 10
# digits of pi and of e, so that no point is special
_SEEDS = (31415926, 53589793, 23846264, 33832795, 27182818, 28459045, 23536028, 74713526)


def equal_at_real_points(a: object, b: object) -> bool:
    """Whether two expressions with roots or logarithms of the same names agree at all sampled points, and at enough of them."""
    import sympy

    if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):
        return False
    names = sorted(a.free_symbols | b.free_symbols, key=str)
    if a.free_symbols != b.free_symbols or not 0 < len(names) <= MAX_NAMES or not (_branches(a) or _branches(b)):
        return False
    met = 0
    for point in _points(len(names)):
        values = dict(zip(names, point, strict=True))
        x, y = real_value(a, values), real_value(b, values)
        if x is None or y is None:
            continue
        if abs(x - y) > (abs(x) + abs(y)) * sympy.Float(10) ** (5 - DIGITS):
            return False
        met += 1
    return met >= POSITIVE_POINTS


def _branches(found: sympy.Expr) -> bool:
    """Whether an expression holds roots, logarithms or powers with names above, whose rules depend on signs."""
    import sympy

    if sum(1 for _ in sympy.preorder_traversal(found)) > MAX_NODES or found.has(sympy.Integral, sympy.Sum, sympy.Product):
        return False
    return found.has(sympy.log) or any(not power.exp.is_Integer for power in found.atoms(sympy.Pow))


def _points(count: int) -> Iterator[list[sympy.Expr]]:
    """Points of no special kind: positive ones first, then points of all signs."""
    import sympy

    for at in range(POSITIVE_POINTS + SIGNED_POINTS):
        point: list[sympy.Expr] = []
        for axis in range(count):
            seed = _SEEDS[(3 * at + axis) % len(_SEEDS)] * (at + 2) * (axis + 3) % 9973
            value = sympy.Float(sympy.Rational(seed + 17, 2311 if at % 2 else 7919), DIGITS)
            negative = at >= POSITIVE_POINTS and (at - POSITIVE_POINTS + 1) >> (axis % 4) & 1
            point.append(-value if negative else value)
        yield point


def real_value(found: object, values: dict[sympy.Basic, sympy.Expr]) -> sympy.Expr | None:
    """The value at a point; None where any part of the expression has none among the real numbers.

    Everything is a float of DIGITS digits, but for exponents written as fractions: exact powers would grow without bound.
    """
    import sympy

    if not isinstance(found, sympy.Expr):
        return None
    if found in values:
        return values[found]
    if not found.args:
        return found.evalf(DIGITS) if found.is_number and found.is_real else None
    parts: list[sympy.Expr] = []
    for one in found.args:
        if (part := real_value(one, values)) is None:
            return None
        parts.append(part)
    if isinstance(found, sympy.Pow) and isinstance(found.exp, sympy.Rational):
        value = _power(parts[0], found.exp)
    else:
        made = found.func(*parts)
        value = made.evalf(DIGITS) if isinstance(made, sympy.Expr) else None
    return value if value is not None and value.is_real and value.is_finite and value.is_number else None


def _power(base: sympy.Expr, exponent: sympy.Rational) -> sympy.Expr:
    """A power as among the real numbers, where (-8)^(1/3) is -2."""
    if base.is_negative and exponent.q % 2 and exponent.q > 1:
        return (-1 if exponent.p % 2 else 1) * ((-base) ** exponent).evalf(DIGITS)
    return (base**exponent).evalf(DIGITS)
