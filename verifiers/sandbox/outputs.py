"""Comparison of an untrusted program's output with the expected one. The bytes are hostile; the expected values stay here.

Values are plain JSON and must be equal in value and in type, except that any number may stand for an expected float, from which
it may differ by the tolerance. Text is compared line by line, without whitespace at the ends of lines and without empty lines
at either end ("lines"), or word by word ("tokens"). Expected integers are exact unless the problem states a tolerance.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
_INTEGER = re.compile(r"[-+]?\d+")
MAX_NUMBER_CHARS = 400
FEW_DIGITS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The tolerances of math.isclose. With both 0, numbers must be equal and of the same type.

    integers: whether integers in a text may differ as well.
    """

    rel: float = 0.0
    abs: float = 0.0
    integers: bool = True

    def __bool__(self) -> bool:
        return self.rel > 0 or self.abs > 0

    def accepts(self, expected: float, got: float) -> bool:
        return math.isfinite(expected) and math.isclose(expected, got, rel_tol=self.rel, abs_tol=self.abs)


EXACT = Tolerance()
# absolute or relative, as the checkers of contests have it for real numbers
AS_JUDGES = Tolerance(rel=1e-6, abs=1e-6, integers=False)


def plain_json(raw: bytes) -> Any:
    """Decode one JSON value.

    Raises ValueError for anything else, and for NaN, repeated keys, extreme depth and extremely long integers.
    """
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("JSON object with a repeated key")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def same_value(expected: Any, got: Any, tolerance: Tolerance = EXACT) -> bool:
    """Whether two values are equal, with the same types at every level. A number may differ from an expected float by the
    tolerance.
    """
    if tolerance and type(expected) is float and type(got) in (int, float):
        try:
            return tolerance.accepts(expected, float(got))
        except OverflowError:
            return False
    if type(expected) is not type(got):
        return False
    if isinstance(expected, list):
        return len(expected) == len(got) and all(same_value(a, b, tolerance) for a, b in zip(expected, got, strict=True))
    if isinstance(expected, dict):
        return expected.keys() == got.keys() and all(same_value(value, got[key], tolerance) for key, value in expected.items())
    return expected == got


def same_text(expected: str, got: bytes, compare: str = "lines", tolerance: Tolerance = EXACT) -> bool:
    """Whether two texts are equal, by "lines" or by "tokens". With a tolerance, plain numbers are compared as numbers."""
    try:
        text = got.decode()
    except UnicodeDecodeError:
        return False
    if compare == "tokens":
        return _same_words(expected.split(), text.split(), tolerance)
    wanted, found = _lines(expected), _lines(text)
    return len(wanted) == len(found) and all(_same_line(a, b, tolerance) for a, b in zip(wanted, found, strict=True))


def _lines(text: str) -> list[str]:
    """Lines without whitespace at their ends, and without the empty ones at both ends of the text."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    first = next((number for number, line in enumerate(lines) if line), 0)
    return lines[first:]


def _same_line(expected: str, got: str, tolerance: Tolerance) -> bool:
    """Whether two lines are equal. Where a number differs, or in a line of numbers, the width of the gaps does not count."""
    if expected == got:
        return True
    wanted, found = expected.split(), got.split()
    if not tolerance or len(wanted) != len(found):
        return False
    if wanted == found and not (tolerance.integers or all(map(_NUMBER.fullmatch, wanted))):
        # the same words in another layout
        return False
    return _same_words(wanted, found, tolerance)


def _same_words(expected: list[str], got: list[str], tolerance: Tolerance) -> bool:
    return len(expected) == len(got) and all(_same_word(a, b, tolerance) for a, b in zip(expected, got, strict=True))


def _same_word(expected: str, got: str, tolerance: Tolerance) -> bool:
    if expected == got:
        return True
    if not tolerance or max(len(expected), len(got)) > MAX_NUMBER_CHARS:
        return False
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(got)):
        return False
    if tolerance.integers:
        return tolerance.accepts(float(expected), float(got))
    if _INTEGER.fullmatch(expected):
        # 3.0 is 3, and nothing near it is
        whole, point, zeros = got.partition(".")
        return bool(point) and not zeros.strip("0") and whole == expected
    return _as_judges(expected, got, tolerance)


def _as_judges(expected: str, got: str, tolerance: Tolerance) -> bool:
    """Whether a number is near an expected decimal. If that has few digits, all of them must agree, however large it is."""
    wanted, found = float(expected), float(got)
    if not tolerance.accepts(wanted, found):
        return False
    digits = len(expected.partition(".")[2])
    return "e" in expected.lower() or digits > FEW_DIGITS or abs(wanted - found) < 10.0**-digits
