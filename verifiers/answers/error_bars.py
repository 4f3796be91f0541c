r"""Values with an uncertainty: 5.0 \pm 0.1 cm, (6.63 \pm 0.02) \times 10^{-34}, 9.81(2), 5.0 cm +/- 2 %."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .quantity import read
from .spelling import tidy

_NUMBER = r"[-+]?\d{1,20}(?:\.\d{1,20})?(?:[eE][-+]?\d{1,3}| ?(?:\\times|\\cdot) ?10\^\{?[-+]?\d{1,3}\}?)?"
_BAR = re.compile(
    rf"\(? ?({_NUMBER}) ?([^\d\\()][^\\()]{{0,40}}|\\text ?\{{[^{{}}]{{0,40}}\}})? ?\\pm ?({_NUMBER}) ?(%)?\)?(.*)", re.DOTALL
)
_LAST_DIGITS = re.compile(r"([-+]?\d{1,20}\.\d{1,20})\((\d{1,3})\)(.*)", re.DOTALL)
MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value without its error bar, and half the length of the bar in the unit of the value."""

    text: str
    bar: Fraction


def measurement(latex: str) -> Measurement | None:
    """Take the error bar off. None where there is none, or where \\pm may mean two numbers, as in 3 \\pm 2."""
    if len(latex) > MAX_CHARS or not any(sign in latex for sign in ("\\pm", "±", "+/-", "+-", "(")):
        return None
    text = tidy(latex.replace("+/-", "\\pm ").replace("+-", "\\pm "))
    if digits := _LAST_DIGITS.fullmatch(text):
        size = len(digits[1].rpartition(".")[2])
        bar = f"{int(digits[2])}e-{size}"
        return _measurement(digits[1], bar, digits[3])
    match = _BAR.fullmatch(text)
    if not match or text.count("\\pm") != 1:
        return None
    value, unit, bar, percent, rest = match.groups()
    rest = rest.strip() or (unit or "")
    if percent:
        found = read(f"{value} {rest}").number
        relative = read(bar).number
        return (
            None if found is None or relative is None else Measurement(f"{value} {rest}".strip(), abs(found * relative / 100))
        )
    if "." not in value + bar and not rest:
        return None
    return _measurement(value, bar, rest)


def _measurement(value: str, bar: str, rest: str) -> Measurement | None:
    # a power of ten behind the brackets belongs to both
    gap = "" if re.match(r"[eE][-+]?\d", rest) else " "
    text, half = f"{value}{gap}{rest}".strip(), read(f"{bar}{gap}{rest}".strip()).number
    return None if half is None or half == 0 else Measurement(text, abs(half))
