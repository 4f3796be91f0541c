r"""The value of an arithmetic expression that a model wrote, without running it: integers, + - * /, parentheses.

LaTeX's spellings of these count too: 3 \times \left(5 + \frac{7}{2}\right). The text is hostile, so it has a parser of its own:
no code is made of it, and size and depth are bounded before any work.
"""

from __future__ import annotations

import re
from fractions import Fraction

from .readings import plain_fractions

MAX_CHARS = 500
MAX_DEPTH = 50
MAX_DIGITS = 18
_TOKEN = re.compile(r"\s*(\d+|[-+*/()])")
_SIGNS = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u2217": "*", "\u00f7": "/", "\u2215": "/",
    "\uff0b": "+", "\uff0d": "-", "\uff08": "(", "\uff09": ")", "[": "(", "]": ")", "{": "(", "}": ")", "\u00a0": " ",
})  # fmt: skip
_COMMANDS = (("\\left", " "), ("\\right", " "), ("\\times", "*"), ("\\cdot", "*"), ("\\ast", "*"), ("\\div", "/"), ("\\,", " "))
_TIMES = re.compile(r"(?<=[\d)]) *[xX] *(?=[\d(])")


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """Return (value, the integers used, in order). Raises ValueError for any other text."""
    tokens = _tokens(text)
    value, at = _sum(tokens, 0, 0)
    if at != len(tokens):
        raise ValueError(f"{tokens[at]!r} where the expression should end")
    return value, [int(token) for token in tokens if token.isdigit()]


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARS or not (text := _without_latex(text)) or not text.isascii():
        raise ValueError("empty, too long, or not an expression")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(match.group(1)) > MAX_DIGITS:
            raise ValueError(f"cannot read {text[at : at + 20]!r}")
        tokens.append(match.group(1))
        at = match.end()
    return tokens


def _without_latex(text: str) -> str:
    """The expression in plain signs."""
    for command, sign in _COMMANDS:
        text = text.replace(command, sign)
    return _TIMES.sub("*", plain_fractions(text).translate(_SIGNS).strip())


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        term, at = _product(tokens, at + 1, depth)
        value = value + term if sign == "+" else value - term
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    """Factors; 2(3 + 4) is a product, but not behind a division, where people read it in two ways."""
    value, at = _factor(tokens, at, depth)
    divided = False
    while at < len(tokens) and tokens[at] in "*/(":
        sign = tokens[at]
        if sign == "(" and divided:
            raise ValueError("no sign between two factors behind a division")
        divided = divided or sign == "/"
        factor, at = _factor(tokens, at + (sign != "("), depth)
        if sign == "/" and not factor:
            raise ValueError("division by zero")
        value = value / factor if sign == "/" else value * factor
    return value, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if depth > MAX_DEPTH or at >= len(tokens):
        raise ValueError("too deep, or it ends too early")
    token = tokens[at]
    if token.isdigit():
        return Fraction(int(token)), at + 1
    if token in "+-":
        value, at = _factor(tokens, at + 1, depth + 1)
        return (-value if token == "-" else value), at
    if token != "(":
        raise ValueError(f"{token!r} where a number should be")
    value, at = _sum(tokens, at + 1, depth + 1)
    if at >= len(tokens) or tokens[at] != ")":
        raise ValueError("a parenthesis is not closed")
    return value, at + 1
