"""The exact value of a plain number as people write it: 0.5, 1,234, 3\\frac{1}{4}, 2\\times10^{-7}, 0.\\overline{3}, 25\\%.

Texts come from `spelling.squeeze`: no spaces without a meaning, one spelling per symbol. Every pattern is linear in the text.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

MAX_NUMBER_CHARS = 400
LONG = 13  # digits from which a decimal stands for the number that it rounds
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_TIMES_TEN = re.compile(r"([-+]?)(?:([\d.,]+)(?:\\times|\\cdot|\*))?10\^(?:\{([-+]?\d{1,3})\}|([-+]?\d{1,3}))")
_FRACTION = re.compile(
    r"([-+]?)(?:\\frac\{([-+]?\d+(?:\.\d+)?)\}\{([-+]?\d+(?:\.\d+)?)\}|\(?([-+]?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)\)?)"
)
_MIXED = re.compile(r"([-+]?)(\d+)(?:\\frac\{(\d+)\}\{(\d+)\}|[ &](\d+)/(\d+))")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")
_PERIOD = re.compile(r"([-+]?)(\d*)\.(\d*)(?:\((\d+)\)|\\ldots)")
_BASED = re.compile(r"([0-9A-Z]+)_(?:\{?(\d{1,2})\}?|\{?([a-z]{3,9})\}?)")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "sixteen": 16}


def number(text: str) -> Fraction | None:
    """The value; None for a text that is not a plain number, or has more than 400 characters."""
    if not 0 < len(text) <= MAX_NUMBER_CHARS:
        return None
    if text[0] == "(" and text[-1] == ")" and text.count("(") == 1 and "," not in text:
        text = text[1:-1]
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if _PLAIN.fullmatch(text):
        return _decimal(text)
    for read in (_fraction, _mixed, _power_of_ten, _repeating):
        if (value := read(text)) is not None:
            return value
    return None


def _decimal(text: str) -> Fraction | None:
    try:
        return Fraction(Decimal(text))
    except (InvalidOperation, ValueError):
        return None


def _ratio(top: str, bottom: str) -> Fraction | None:
    over, under = _decimal(top), _decimal(bottom)
    return over / under if over is not None and under else None


def _fraction(text: str) -> Fraction | None:
    if not (match := _FRACTION.fullmatch(text)):
        return None
    sign, top, bottom, plain_top, plain_bottom = match.groups()
    value = _ratio(top or plain_top, bottom or plain_bottom)
    return -value if value is not None and sign == "-" else value


def _mixed(text: str) -> Fraction | None:
    if not (match := _MIXED.fullmatch(text)):
        return None
    sign, whole, top, bottom, plain_top, plain_bottom = match.groups()
    part = _ratio(top or plain_top, bottom or plain_bottom)
    if part is None:
        return None
    return -(int(whole) + part) if sign == "-" else int(whole) + part


def _power_of_ten(text: str) -> Fraction | None:
    if not (match := _TIMES_TEN.fullmatch(text)):
        return None
    sign, mantissa, braced, bare = match.groups()
    value = number(mantissa) if mantissa else Fraction(1)
    if value is None:
        return None
    value *= Fraction(10) ** int(braced or bare)
    return -value if sign == "-" else value


def _repeating(text: str) -> Fraction | None:
    """0.1\\overline{6}: (digits to the end of the period - digits before it) / (nines and zeros)."""
    if not (match := _REPEATING.fullmatch(text) or _PERIOD.fullmatch(text)):
        return None
    sign, whole, fixed, period = match.groups()
    if not period:
        fixed, period = _split_period(fixed)
        if not period:
            return None
    top = int(f"{whole}{fixed}{period}") - int(f"{whole}{fixed}" or 0)
    value = Fraction(top, (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value


def _split_period(digits: str) -> tuple[str, str]:
    """Digits before 0.2727... repeats, and the period, which must be seen twice, or three times if it is one digit."""
    for size in range(1, len(digits) // 2 + 1):
        period = digits[-size:]
        times = 1
        while digits.endswith(period * (times + 1)):
            times += 1
        if times >= (3 if size == 1 else 2):
            return digits[: len(digits) - size * times], period
    return digits, ""


def rounded_from(written: str, other: str) -> bool:
    """Whether one of two numbers is a fraction and the other its decimal of 13 digits or more.

    A stored decimal is exact, and so is a whole number.
    """
    fraction, decimal = (written, other) if "." in other else (other, written)
    if (
        "e" in decimal.lower()
        or not _PLAIN.fullmatch(decimal)
        or _PLAIN.fullmatch(fraction)
        or significant_digits(decimal) < LONG
    ):
        return False
    x, y = number(fraction), number(decimal)
    places = len(decimal.partition(".")[2])
    return x is not None and y is not None and x.denominator > 1 and cut_off(x, y, places)


def cut_off(value: Fraction, decimal: Fraction, places: int) -> bool:
    """Whether a decimal with so many places is a value rounded or cut off at its last digit, or as a double holds it."""
    beyond, unit = value - decimal, Fraction(1, 10**places)
    return abs(beyond) <= max(unit / 2, abs(decimal) / 2**53) or (0 < beyond * (1 if decimal > 0 else -1) < unit)


def based(text: str) -> tuple[str, int | None] | None:
    """Digits and base of 2516_{8}; the base is None where it is an unknown word."""
    match = _BASED.fullmatch(text)
    if not match:
        return None
    digits, base, word = match.groups()
    return digits, int(base) if base else _BASES.get(word)


def significant_digits(text: str) -> int:
    """How many digits a plain or scientific number gives: 3 for 0.0320 and for 3.20e5."""
    mantissa = re.split(r"[eE]|\\times|\\cdot|\*", text, maxsplit=1)[0]
    return len(re.sub(r"[^0-9]", "", mantissa).lstrip("0"))
