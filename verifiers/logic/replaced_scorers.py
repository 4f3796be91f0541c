"""Scorers of ours for puzzles of Reasoning Gym 0.1.25 whose own scorers cannot be used, each with the reason.

The library's scorers, called "theirs" below, evaluate the model's text, pay for texts that answer nothing, pay twice for one
thing, or raise. These take (text between the tags, stored entry), run nothing, and pay what the puzzle promises: 1 for a right
answer, the partial credit of the original where it is meant for a right answer in the wrong form, 0 for anything else.
"""

from __future__ import annotations

import cmath
import json
import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from .arithmetic import evaluate

Entry = dict[str, Any]  # of Reasoning Gym: question, answer, metadata

WRONG_FORM = 0.1
MAX_FACTORS = 64
TIMES = "\u00d7"


def parse_json(text: str) -> Any:
    """Parse a model's JSON, in which single quotes are allowed. Raises ValueError for every fault, deep nesting included."""
    if len(text) > 100_000:
        raise ValueError(f"{len(text)} characters")
    try:
        return json.loads(text.replace("'", '"'))
    except RecursionError as error:
        raise ValueError("brackets too deep") from error


def _rows(text: str) -> list[list[Any]]:
    """Parse a list of lists. Raises ValueError."""
    rows = parse_json(text)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("not a list of lists")
    return rows


def binary_matrix(text: str, entry: Entry) -> float:
    """Theirs calls eval() on the answer, to see whether it is the right matrix as a list."""
    if text == entry["answer"].strip():
        return 1.0
    written = "\n".join(" ".join(map(str, row)) for row in _rows(text))
    return WRONG_FORM if written == entry["answer"].strip() else 0.0


def spiral_matrix(text: str, entry: Entry) -> float:
    """Theirs calls eval()."""
    if text == entry["answer"].strip():
        return 1.0
    items = parse_json(text)
    is_right = isinstance(items, list) and " ".join(map(str, items)) == entry["answer"].strip()
    return WRONG_FORM if is_right else 0.0


def string_insertion(text: str, entry: Entry) -> float:
    """Theirs calls eval()."""
    if text == entry["answer"].strip():
        return 1.0
    letters = parse_json(text)
    is_right = isinstance(letters, list) and "".join(map(str, letters)) == entry["answer"].strip()
    return WRONG_FORM if is_right else 0.0


def n_queens(text: str, entry: Entry) -> float:
    """Theirs calls eval()."""
    valid = entry["metadata"]["valid_answers"]
    if text in valid:
        return 1.0
    written = "\n".join(" ".join(map(str, row)) for row in _rows(text))
    return 0.5 if written in valid else 0.0


def countdown(text: str, entry: Entry) -> float:
    """Theirs calls sympy's parse_expr(), which is eval()."""
    value, used = evaluate(text)
    metadata = entry["metadata"]
    return float(sorted(used) == sorted(metadata["numbers"]) and value == metadata["target"])


def puzzle24(text: str, entry: Entry) -> float:
    """Theirs calls parse_expr(), truncates to an integer (24.9 is 24), and accepts any four numbers for those of the puzzle."""
    value, used = evaluate(text)
    return float(sorted(used) == sorted(entry["metadata"]["numbers"]) and value == 24)


def game_of_life_halting(text: str, entry: Entry) -> float:
    """Theirs compares the truth values of two texts, so that every text is right."""
    return float(text.lower().rstrip(".") == str(entry["answer"]).lower())


def prime_factorization(text: str, entry: Entry) -> float:
    """Theirs raises on anything but integers, and pays .5 for the number itself."""
    parts = text.replace("*", TIMES).replace("\\times", TIMES).split(TIMES)
    if len(parts) > MAX_FACTORS:
        return 0.0
    return float(sorted(map(int, parts)) == sorted(int(part) for part in entry["answer"].split(TIMES)))


def polynomial_equations(text: str, entry: Entry) -> float:
    """Theirs skips items that are not numbers, so that any words are right where there is no real root."""
    expected, roots = _numbers(entry["answer"]), _numbers(text)
    if len(expected) != len(roots):
        return 0.0
    if not expected:
        return 1.0
    distances = [abs(a - b) for a, b in zip(expected, roots, strict=True)]  # both are sorted
    return sum(math.exp(-10 * distance) for distance in distances) / len(expected)


def _numbers(text: str) -> list[float]:
    """The sorted numbers of a comma-separated list. Raises ValueError for an item that is not a finite number."""
    numbers = [float(item) for item in text.split(",")] if text.strip() else []
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not a finite number")
    return sorted(numbers)


def complex_arithmetic(text: str, entry: Entry) -> float:
    """Theirs takes min(1, exp(-nan)), which is 1, so that nan is always right."""
    value = complex(text.replace(" ", "").lower().strip("()").replace("*", "").replace("i", "j"))
    if not cmath.isfinite(value):
        return 0.0
    return math.exp(-abs(value - complex(*entry["metadata"]["result"])))


def decimal_arithmetic(text: str, entry: Entry) -> float:
    """Theirs takes the tolerance from the scorer's own settings, not from those that the entry was made with."""
    try:
        value, expected = Decimal(text), Decimal(entry["answer"])
    except InvalidOperation as error:
        raise ValueError("not a decimal number") from error
    if not value.is_finite() or abs(value.adjusted()) > 100:
        return 0.0
    places = max(entry["metadata"]["difficulty"]["decimal_places"])
    return float(abs(value - expected) <= Decimal(1).scaleb(-places))


def number_sorting(text: str, entry: Entry) -> float:
    """Theirs calls eval() on the stored answer, which may come from a foreign file, and allows an error of 1 per number."""
    items, expected = parse_json(text), parse_json(entry["answer"])
    if not isinstance(items, list) or not all(isinstance(item, str | int | float) for item in items):
        return 0.0
    return float([float(item) for item in items] == [float(item) for item in expected])


def grid(text: str, entry: Entry) -> float:
    """Theirs is never equal, because JSON stores the tuples of its boards as lists."""
    rows = [row.split() for row in text.splitlines() if row.strip()]
    return float(rows == [[str(cell) for cell in row] for row in entry["metadata"]["output"]])


def bitwise_arithmetic(text: str, entry: Entry) -> float:
    """Theirs calls eval() on the stored problem, which may come from a foreign file."""
    return float(int(text, 0) == int(entry["answer"], 0))


REPLACED: dict[str, Callable[[str, Entry], float]] = {
    scorer.__name__: scorer
    for scorer in (
        binary_matrix,
        spiral_matrix,
        string_insertion,
        n_queens,
        countdown,
        puzzle24,
        game_of_life_halting,
        prime_factorization,
        polynomial_equations,
        complex_arithmetic,
        decimal_arithmetic,
        number_sorting,
        bitwise_arithmetic,
    )
} | {"arc_agi": grid, "rearc": grid}


def replaced_score(dataset: str, text: str, entry: Entry) -> float:
    """The reward of an answer by our scorer.

    ValueError and OverflowError are the answer's fault, which is then 0: it does not have the form that was asked for.
    Raises KeyError, TypeError where the stored entry lacks something that the puzzle needs.
    """
    try:
        return REPLACED[dataset](text, entry)
    except (ValueError, OverflowError):
        return 0.0
