r"""The text of an answer without what surrounds it, and the plain values in it: numbers, items of a list, rows of a grid.

    <answer>The answer is $\boxed{1,234}$.</answer> --bare--> "1,234" --written_number--> 1234

Nothing here chooses among several answers: `bare` takes away words and marks around one text, and every parser reads all of its
text or raises ValueError. The text is the model's, so everything is linear in it, or bounded.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from ..answers.extraction import last_boxed

MAX_LAYERS = 8
MAX_DIGITS = 400
MAX_JSON_CHARS = 100_000
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_SPACES = re.compile(r"[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_NOUN = (
    r"answer|result|solution|output|expression|equation|probability|value|sum|total|product|difference|number|factori[sz]ation|"
    r"order|list|word|sentence|sequence|path|count"
)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|and|then)\b,? *)?(?:(?:the|my|our) +)?"
    r"(?:(?:final|correct|right|required|resulting|sorted|shortest|prime) +){0,2}"
    rf"(?:{_NOUN})(?: of \w{{1,20}})?(?: +(?:is|are|would be|will be)(?: *:)?| *[:=]) *",
    re.IGNORECASE,
)
_AROUND = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"),
           ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("<answer>", "</answer>"))  # fmt: skip
_COMMAND = re.compile(r"\\(?:text|textbf|texttt|textit|mathrm|mathbf|mathtt|mathit|displaystyle|operatorname) *\{([^{}]*)\}")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-"})
_NUMBER = re.compile(r"([-+]?)(\d+(?:\.\d*)?|\.\d+)(?:e([-+]?\d{1,4}))?", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?|[-+]?\d{1,3}(?: \d{3})+(?:\.\d*)?", re.ASCII)
_POWER_OF_TEN = re.compile(r"(.{1,60}?) *(?:\\times|\\cdot|\u00d7|\u00b7|[*x]) *10 *(?:\^|\*\*) *[{(]? *([-+]?\d{1,4}) *[})]?")
_FRACTION = re.compile(r"\\[dt]?frac *\{([^{}]*)\} *\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac *(\d) *(\d)")
_RATIO = re.compile(r"([-+]?) *(?:\\[dt]?frac *\{ *([-+]?\d+) *\} *\{ *([-+]?\d+) *\}|([-+]?\d+) */ *(\d+))", re.ASCII)
_CLOSES = {"[": "]", "(": ")", "{": "}"}
_GRID_MARKS = str.maketrans(dict.fromkeys(",;|[](){}&", " "))


def bare(text: str) -> str:
    """The text without a box, quotes, code marks, LaTeX's dollars, "The answer is", or the full stop behind it."""
    text = _INVISIBLE.sub("", text).strip()
    for _ in range(MAX_LAYERS):
        inner = _without_one_layer(text)
        if inner == text:
            break
        text = inner
    return text


def _without_one_layer(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) > 6 and "```" not in text[3:-3]:
        language, line_end, block = text[3:-3].partition("\n")
        return (block if line_end else language).strip("\n").rstrip()
    if text.count("\\boxed") + text.count("\\fbox") == 1 and (box := last_boxed(text)):
        return box
    for begin, end in _AROUND:
        inner = text[len(begin) : -len(end)]
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end) and end not in inner:
            return inner.strip()
    if (command := _COMMAND.fullmatch(text)) is not None:
        return command.group(1).strip()
    if (lead := _LEAD.match(text)) is not None and lead.end() < len(text):
        return text[lead.end() :].strip()
    return text[:-1].rstrip() if len(text) > 1 and text[-1] in ".\u3002" and text[-2] not in "." else text


def plain_text(text: str) -> str:
    """One spelling of spaces, minus signs, quotes and LaTeX text commands."""
    text = _COMMAND.sub(r"\1", _SPACES.sub(" ", text.translate(_MINUS)))
    return text.replace("\u201c", '"').replace("\u201d", '"').replace("\u2018", "'").replace("\u2019", "'").strip()


def plain_fractions(text: str) -> str:
    r"""The text with ((a)/(b)) for \frac{a}{b}; fractions in one another as well."""
    while (fewer := _FRACTION.sub(r"((\1)/(\2))", text)) != text:
        text = fewer
    return text


def written_number(text: str) -> Fraction:
    r"""The exact value of one number: 1,234, 1.50, -3/8, \frac{3}{8}, 1.2e5, 1.2 \times 10^{5}. Raises ValueError."""
    text = plain_text(text).replace("{,}", ",").replace("\\,", "").replace("\\!", "").strip()
    if not 0 < len(text) <= MAX_DIGITS:
        raise ValueError("empty, or more than a number")
    if (match := _POWER_OF_TEN.fullmatch(text)) is not None:
        return written_number(match.group(1)) * Fraction(10) ** int(match.group(2))
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    if (ratio := _RATIO.fullmatch(text)) is not None:
        sign, top, bottom, plain_top, plain_bottom = ratio.groups()
        return (-1 if sign == "-" else 1) * over(int(top or plain_top), int(bottom or plain_bottom))
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    return _decimal(text)


def _decimal(text: str) -> Fraction:
    try:
        return Fraction(Decimal(text))
    except InvalidOperation as error:
        raise ValueError("not a number") from error


def over(top: int, bottom: int) -> Fraction:
    """The fraction. Raises ValueError for a division by zero."""
    if not bottom:
        raise ValueError("division by zero")
    return Fraction(top, bottom)


def ratio(text: str) -> tuple[int, int]:
    r"""Numerator and denominator as written: 3/8, \frac{3}{8}, or an integer over 1. Raises ValueError."""
    text = plain_text(text).strip("$ ")
    if len(text) > MAX_DIGITS:
        raise ValueError("more than a fraction")
    if (match := _RATIO.fullmatch(text)) is None:
        return int(written_number(text)), 1
    sign, top, bottom, plain_top, plain_bottom = match.groups()
    return (-1 if sign == "-" else 1) * int(top or plain_top), int(bottom or plain_bottom)


def parse_json(text: str) -> Any:
    """Parse a model's JSON, in which single quotes are allowed. Raises ValueError for every fault, deep nesting included."""
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"{len(text)} characters")
    try:
        try:
            return json.loads(text)
        except ValueError:
            return json.loads(text.replace("'", '"'))
    except RecursionError as error:
        raise ValueError("brackets too deep") from error


def items(text: str) -> list[str]:
    """The words or numbers of a list: in brackets or not, in quotes or not, with commas, arrows or spaces between them.

    Raises ValueError for a bracket that does not close, or a list in a list.
    """
    text = plain_text(text).replace("\u2192", ",").replace("->", ",").replace("\\to", ",").replace("\\rightarrow", ",")
    if text and text[0] in _CLOSES:
        if text[-1] != _CLOSES[text[0]]:
            raise ValueError("a bracket is not closed")
        text = text[1:-1]
    if any(bracket in text for bracket in "[]"):
        raise ValueError("a list in a list")
    parts = text.split(",") if "," in text else text.split()
    return [part.strip().strip("'\"").strip() for part in parts] if text.strip() else []


def rows(text: str) -> list[list[str]]:
    """The rows of a grid: lines, or a list of lists. Marks between the cells do not count. Raises ValueError."""
    text = plain_text(text)
    if text.startswith("["):
        try:
            lists = parse_json(text)
        except ValueError:
            lists = None
        if isinstance(lists, list) and lists and all(isinstance(row, list) for row in lists):
            return [[cell if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in lists]
    lines = [line.translate(_GRID_MARKS).replace("\\", " ").split() for line in text.splitlines()]
    return [[cell.strip("'\"") for cell in line] for line in lines if line]


def same_item(given: str, expected: str, *, case: bool = False) -> bool:
    """Whether two items are one number, or one text; `case`: "a" is not "A"."""
    try:
        return written_number(given) == written_number(expected)
    except ValueError:
        return given == expected if case else given.casefold() == expected.casefold()


def same_items(given: list[str], expected: list[str], *, case: bool = False) -> bool:
    return len(given) == len(expected) and all(same_item(a, b, case=case) for a, b in zip(given, expected, strict=True))


def same_rows(given: list[list[str]], expected: list[list[str]]) -> bool:
    return len(given) == len(expected) and all(same_items(a, b) for a, b in zip(given, expected, strict=True))
