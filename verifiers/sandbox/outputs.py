"""Comparison of an untrusted program's output with the expected one. The bytes are hostile; the expected values stay here.

Values are plain JSON and must be equal in value and in type (2, 2.0 and true differ); where the problem states a tolerance,
numbers may differ by it. Text is compared line by line without trailing whitespace and trailing empty lines ("lines"), or word
by word ("tokens").
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
MAX_NUMBER_CHARS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The tolerances of math.isclose. With both 0, numbers must be equal and of the same type."""

    rel: float = 0.0
    abs: float = 0.0

    def __bool__(self) -> bool:
        return self.rel > 0 or self.abs > 0

    def accepts(self, expected: float, got: float) -> bool:
        return math.isclose(expected, got, rel_tol=self.rel, abs_tol=self.abs)


EXACT = Tolerance()


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
    if compare == "lines" and not tolerance:
        return _lines(expected) == _lines(text)
    split = _one_line if compare == "tokens" else _words
    wanted, found = split(expected), split(text)
    return len(wanted) == len(found) and all(
        len(a) == len(b) and all(_same_word(x, y, tolerance) for x, y in zip(a, b, strict=True))
        for a, b in zip(wanted, found, strict=True)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _words(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in _lines(text)]


def _one_line(text: str) -> list[list[str]]:
    """All words, as if the text were one line."""
    return [text.split()]


def _same_word(expected: str, got: str, tolerance: Tolerance) -> bool:
    if expected == got:
        return True
    if not tolerance or max(len(expected), len(got)) > MAX_NUMBER_CHARS:
        return False
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(got)):
        return False
    return tolerance.accepts(float(expected), float(got))
