"""Scorers of ours for puzzles of Reasoning Gym 0.1.25 that ask for a value or an expression, each with the reason.

The library's scorers, called "theirs" below, evaluate the model's text, pay for texts that answer nothing, pay twice for one
thing, pay by likeness, or raise. These take (text between the tags, stored entry), run nothing, and pay 1 for a right answer in
any of the usual spellings, 0 for anything else. `spell_backward` alone has partial credit.
"""

from __future__ import annotations

import cmath
import re
from fractions import Fraction

from .arithmetic import evaluate
from .exact import Entry, Scorer, counted
from .readings import items, plain_text, rows, written_number

MAX_FACTORS = 64
_TIMES = re.compile(r"\u00d7|\\times|\\cdot|\u00b7|\u22c5|(?<!\*)\*(?!\*)|(?<=[\d})]) *[xX] *(?=\d)|,")
_POWER = re.compile(r"(\d{1,40})(?: *(?:\^|\*\*) *(?:\{ *(\d{1,2}) *\}|\( *(\d{1,2}) *\)|(\d{1,2})))?", re.ASCII)
_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "0123456789")
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{1,2}")
_NO_ROOT = re.compile(
    r"\[\]|\{\}|none|empty|(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?)(?: exists?)?", re.IGNORECASE
)
_CHANCE = re.compile(r"[Pp](?:\([^()]{0,40}\))? *(?==|\\approx|\u2248)")
_TWICE = re.compile(r"([^()]{1,40})\(([^()]{1,40})\)")
_VARIABLE = re.compile(r"[A-Za-z](?:_\{?\d\}?)? *(?:=|\\approx|\u2248) *")


def n_queens(text: str, entry: Entry) -> float:
    """Theirs calls eval(), and pays .5 for a board that is a list of lists."""
    valid = [[row.split() for row in board.splitlines()] for board in entry["metadata"]["valid_answers"]]
    return float(rows(text) in valid)


def countdown(text: str, entry: Entry) -> float:
    """Theirs calls parse_expr(), which is eval(), and pays .05 for any expression."""
    expression = _without_target(text, entry["metadata"]["target"])
    value, used = evaluate(expression)
    return float(sorted(used) == sorted(entry["metadata"]["numbers"]) and value == entry["metadata"]["target"])


def puzzle24(text: str, entry: Entry) -> float:
    """Theirs calls parse_expr(), truncates to an integer (24.9 is 24), and accepts any four numbers for those of the puzzle."""
    value, used = evaluate(_without_target(text, 24))
    return float(sorted(used) == sorted(entry["metadata"]["numbers"]) and value == 24)


def _without_target(text: str, target: int) -> str:
    """The other side of `expression = target`. Raises ValueError for another equation, or a chain of them."""
    sides = [side.strip() for side in text.split("=")]
    if len(sides) == 1:
        return text
    if len(sides) != 2 or str(target) not in sides:
        raise ValueError("an equation, but not one with the target")
    return sides[1 - sides.index(str(target))] if sides[0] == str(target) else sides[0]


def prime_factorization(text: str, entry: Entry) -> float:
    """Theirs raises on anything but integers, pays .5 for the number itself, and does not know exponents."""
    before, equals, behind = plain_text(text).rpartition("=")
    expected = sorted(int(part) for part in entry["answer"].split("\u00d7"))
    product = 1
    for factor in expected:
        product *= factor
    if equals and written_number(before) != product:
        raise ValueError("factors of another number")
    return float(_factors(behind) == expected)


def _factors(text: str) -> list[int]:
    """The factors with exponents written out, sorted. Raises ValueError."""
    text = _RAISED.sub(lambda match: "^" + match.group().translate(_SUPERSCRIPTS), text.strip("[] ").replace(")(", ")*("))
    found: list[int] = []
    for part in _TIMES.split(text[:1000]):
        if (match := _POWER.fullmatch(part.strip(" ()"))) is None:
            raise ValueError("not a product of numbers")
        exponent = next((int(group) for group in match.groups()[1:] if group), 1)
        found += [int(match.group(1))] * exponent
        if exponent < 1 or len(found) > MAX_FACTORS:
            raise ValueError("no factors, or too many of them")
    return sorted(found)


def polynomial_equations(text: str, entry: Entry) -> float:
    """Theirs skips items that are not numbers, so that any words are right where there is no real root, and pays by distance.

    The question asks for four decimals, rounded in a way of its own, so the last of them may be another.
    """
    expected = sorted(map(written_number, items(entry["answer"])))
    if not expected:
        return float(not text.strip() or _NO_ROOT.fullmatch(text.strip()) is not None)
    listed = re.sub(r" +(?:and|or) +", ", ", _VARIABLE.sub("", plain_text(text)))
    if len(given := items(listed)) != len(expected):
        return 0.0
    roots = sorted(map(written_number, given))
    return float(all(abs(a - b) <= Fraction(1, 10_000) for a, b in zip(expected, roots, strict=True)))


def complex_arithmetic(text: str, entry: Entry) -> float:
    """Theirs takes min(1, exp(-nan)), which is 1, so that nan is always right, and pays by distance.

    The question is answered to two decimals.
    """
    written = plain_text(text).replace(" ", "").replace("*", "").replace("\\,", "").lower()
    value, expected = complex(written.strip("()").replace("i", "j")), complex(*entry["metadata"]["result"])
    if not cmath.isfinite(value):
        return 0.0
    allowed = 0.0051 + 1e-12 * abs(expected)
    return float(abs(value.real - expected.real) <= allowed and abs(value.imag - expected.imag) <= allowed)


def decimal_arithmetic(text: str, entry: Entry) -> float:
    """Theirs takes the tolerance from the scorer's own settings, not from those that the entry was made with."""
    places = max(entry["metadata"]["difficulty"]["decimal_places"])
    return float(abs(counted(text) - written_number(entry["answer"])) <= Fraction(1, 10**places))


def bitwise_arithmetic(text: str, entry: Entry) -> float:
    """Theirs calls eval() on the stored problem, which may come from a foreign file."""
    return float(int(plain_text(text), 0) == int(entry["answer"], 0))


def coin_flip(text: str, entry: Entry) -> float:
    """Theirs pays the share of digits that agree, divided by the length of the shorter number, so that "0" earns 1.

    A fraction must be exact; a decimal number may be rounded: by .0001 at most, and by .2 % of what is asked. Who writes it
    twice, as 3/8 = 0.375, must be right twice.
    """
    text = _CHANCE.sub("", plain_text(text)).replace("\\approx", "=").replace("\u2248", "=").lstrip("= ")
    twice = _TWICE.fullmatch(text)
    said = list(twice.groups()) if twice else text.split("=")
    return float(len(said) <= 4 and all(_is_chance(one.strip(), entry) for one in said))


def _is_chance(text: str, entry: Entry) -> bool:
    percent = text.rstrip("% \\")
    value = written_number(percent) / (1 if percent == text else 100)
    exact = entry["metadata"].get("rational")
    expected = Fraction(exact["numerator"], exact["denominator"]) if exact else written_number(entry["answer"])
    if "/" in text or "frac" in text:
        return value in (expected, written_number(entry["answer"]))
    return abs(value - expected) <= min(Fraction(1, 10_000), expected / 500)


def advanced_geometry(text: str, entry: Entry) -> float:
    """Theirs pays .5 for a radius to two decimals, and .05 for any number."""
    text = plain_text(text).replace("^\\circ", "").replace("^{\\circ}", "").replace("\u00b0", "")
    kind, expected = entry["metadata"]["task_type"], str(entry["answer"]).replace("\u00b0", "")
    if kind == "orthocenter":
        given = _point(items(text.replace("\\left", "").replace("\\right", "")))
        return float(given in (_point(entry["metadata"]["ortho"]), _point(items(expected))))
    places = 2 if kind == "angle_measure" else 3
    return float(round(counted(text), places) == round(written_number(expected), places))


def _point(coordinates: list[str]) -> list[Fraction]:
    return [round(written_number(coordinate), 3) for coordinate in coordinates]


def spell_backward(text: str, entry: Entry) -> float:
    """Theirs pays for every letter in its place, so that a copy of the word in the question earns .2.

    Here only the letters before the first mistake count, and only in a word of the right length.
    """
    expected, given = entry["answer"].strip().casefold(), "".join(text.split()).casefold()
    if given == expected:
        return 1.0
    if len(given) != len(expected):
        return 0.0
    right = next(at for at, (a, b) in enumerate(zip(given, expected, strict=True)) if a != b)
    return right / len(expected)


REPLACED: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (
        n_queens,
        countdown,
        puzzle24,
        prime_factorization,
        polynomial_equations,
        complex_arithmetic,
        decimal_arithmetic,
        bitwise_arithmetic,
        coin_flip,
        advanced_geometry,
        spell_backward,
    )
}
