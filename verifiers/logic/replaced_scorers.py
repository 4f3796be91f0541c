"""Scorers of ours for puzzles of Reasoning Gym 0.1.25 whose own scorers cannot be used, each with the reason.

Theirs evaluate what the model wrote, pay for texts that answer nothing, pay more than once for the same right, or raise. These
take (text between the tags, stored entry), run nothing, and pay what the puzzle's text promises: 1 for a right answer, the
partial credit of the original where it is meant for a right answer in the wrong form, 0 for anything else.
"""

from __future__ import annotations

import cmath
import json
import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from .arithmetic import evaluate

WRONG_FORM = 0.1
MAX_FACTORS = 64
TIMES = "\u00d7"


def parse_json(text: str) -> Any:
    """A model's JSON, single quotes allowed. Raises ValueError, whatever is wrong with it."""
    if len(text) > 100_000:
        raise ValueError(f"{len(text)} characters")
    try:
        return json.loads(text.replace("'", '"'))
    except RecursionError as error:
        raise ValueError("brackets too deep") from error


def _rows(text: str) -> list[list[Any]]:
    rows = parse_json(text)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("not a list of lists")
    return rows


def binary_matrix(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval() of the answer, to see whether it is the right matrix as a list."""
    if given == entry["answer"].strip():
        return 1.0
    written = "\n".join(" ".join(map(str, row)) for row in _rows(given))
    return WRONG_FORM * (written == entry["answer"].strip())


def spiral_matrix(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval()."""
    if given == entry["answer"].strip():
        return 1.0
    items = parse_json(given)
    return WRONG_FORM * (isinstance(items, list) and " ".join(map(str, items)) == entry["answer"].strip())


def string_insertion(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval()."""
    if given == entry["answer"].strip():
        return 1.0
    letters = parse_json(given)
    return WRONG_FORM * (isinstance(letters, list) and "".join(map(str, letters)) == entry["answer"].strip())


def n_queens(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval()."""
    valid = entry["metadata"]["valid_answers"]
    if given in valid:
        return 1.0
    return 0.5 * ("\n".join(" ".join(map(str, row)) for row in _rows(given)) in valid)


def countdown(given: str, entry: dict[str, Any]) -> float:
    """Theirs: sympy's parse_expr(), which is eval()."""
    value, used = evaluate(given)
    metadata = entry["metadata"]
    return float(sorted(used) == sorted(metadata["numbers"]) and value == metadata["target"])


def puzzle24(given: str, entry: dict[str, Any]) -> float:
    """Theirs: parse_expr(), truncation to an integer (24.9 is 24), and any four numbers in place of the given ones."""
    value, used = evaluate(given)
    return float(sorted(used) == sorted(entry["metadata"]["numbers"]) and value == 24)


def game_of_life_halting(given: str, entry: dict[str, Any]) -> float:
    """Theirs: compares the truth of two texts, so that every text is right."""
    return float(given.lower().rstrip(".") == str(entry["answer"]).lower())


def prime_factorization(given: str, entry: dict[str, Any]) -> float:
    """Theirs: raises on anything but integers, and pays .5 for writing the number itself down."""
    parts = given.replace("*", TIMES).replace("\\times", TIMES).split(TIMES)
    if len(parts) > MAX_FACTORS:
        return 0.0
    return float(sorted(map(int, parts)) == sorted(int(part) for part in entry["answer"].split(TIMES)))


def polynomial_equations(given: str, entry: dict[str, Any]) -> float:
    """Theirs: leaves out what is not a number, so that any words are right where there is no real root."""
    gold, roots = _numbers(entry["answer"]), _numbers(given)
    if len(gold) != len(roots):
        return 0.0
    distances = [abs(a - b) for a, b in zip(gold, roots, strict=True)]  # both sorted
    return sum(math.exp(-10 * distance) for distance in distances) / len(gold) if gold else 1.0


def _numbers(text: str) -> list[float]:
    """Sorted numbers of a comma-separated list. Raises ValueError for an item that is none."""
    numbers = [float(item) for item in text.split(",")] if text.strip() else []
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not a finite number")
    return sorted(numbers)


def complex_arithmetic(given: str, entry: dict[str, Any]) -> float:
    """Theirs: min(1, exp(-nan)) is 1, so that nan is always right."""
    text = given.replace(" ", "").lower().strip("()").replace("*", "").replace("i", "j")
    value = complex(text)
    if not cmath.isfinite(value):
        return 0.0
    return math.exp(-abs(value - complex(*entry["metadata"]["result"])))


def decimal_arithmetic(given: str, entry: dict[str, Any]) -> float:
    """Theirs: the tolerance is that of the scorer's own settings, not of those that the entry was made with."""
    try:
        value, gold = Decimal(given), Decimal(entry["answer"])
    except InvalidOperation as error:
        raise ValueError("not a decimal number") from error
    if not value.is_finite() or abs(value.adjusted()) > 100:
        return 0.0
    places = max(entry["metadata"]["difficulty"]["decimal_places"])
    return float(abs(value - gold) <= Decimal(1).scaleb(-places))


def number_sorting(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval() of the stored answer, which may come from a file of somebody else's, and an error of 1 per number."""
    items, gold = parse_json(given), parse_json(entry["answer"])
    if not isinstance(items, list) or not all(isinstance(item, str | int | float) for item in items):
        return 0.0
    return float([float(item) for item in items] == [float(item) for item in gold])


def grid(given: str, entry: dict[str, Any]) -> float:
    """Theirs: never equal, because JSON stores the tuples of its boards as lists."""
    rows = [row.split() for row in given.splitlines() if row.strip()]
    return float(rows == [[str(cell) for cell in row] for row in entry["metadata"]["output"]])


def bitwise_arithmetic(given: str, entry: dict[str, Any]) -> float:
    """Theirs: eval() of the stored problem, which may come from a file of somebody else's."""
    return float(int(given, 0) == int(entry["answer"], 0))


MENDED: dict[str, Callable[[str, dict[str, Any]], float]] = {
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


def score(dataset: str, given: str, entry: dict[str, Any]) -> float:
    """The reward of an answer by our scorer. Raises KeyError, TypeError when the stored entry lacks what the puzzle needs.

    ValueError and OverflowError are the answer's: it is not of the form that was asked for.
    """
    try:
        return MENDED[dataset](given, entry)
    except (ValueError, OverflowError):
        return 0.0
