"""Chemical equations, nuclides and lists of substances: 2H2 + O2 -> 2H2O in any order within a side, carbon-14 and ^{14}C."""

from __future__ import annotations

import re
from collections import Counter

from .chemistry import formula, same_chemical
from .compounds import ELEMENT_SYMBOLS, element_symbol
from .spelling import plain, squeeze, tidy, unwrap

MAX_CHARS = 300
MAX_TERMS = 12
_ARROW = re.compile(
    r"\s*(?:\\x?(?:long)?(?:right|leftright)arrow|\\xrightarrow\{[^{}]{0,60}\}|\\to(?![a-z])|\\rightleftharpoons|\\rightleftarrows"
    r"|⇌|<=>|<->|-{1,2}>|=(?!=))\s*"
)
_PLUS = re.compile(r"\s+\+\s*|(?<=[A-Za-z0-9)}])\+\s*(?=\d*[A-Z])")
_TERM = re.compile(r"(\d{0,3}(?:/\d|\.\d)?)\s*\*?\s*(.+)", re.DOTALL)
_ITEMS = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+")
# {}^{14}_{6}C in the order that `plain` leaves, C-14, carbon-14
_NUCLIDE = re.compile(r"(?:\{\})?(?:_\{?\d{1,3}\}?)?\^\{?(\d{1,3})\}?(?:_\{?\d{1,3}\}?)?(?:\{\})?([A-Z][a-z]?)")
_HYPHENED = re.compile(r"([A-Za-z]{1,12})-(\d{1,3})")


def same_reaction(reference: str, answer: str) -> bool | None:
    """Whether both are the same equation, nuclide or list of substances; None where one is something else."""
    if max(len(reference), len(answer)) > MAX_CHARS:
        return None
    expected, found = _equation(reference), _equation(answer)
    if expected and found:
        return expected == found
    wanted, given = _nuclide(reference), _nuclide(answer)
    if wanted and given:
        return wanted == given
    return _same_list(reference, answer) or None


def _equation(latex: str) -> tuple[Counter[tuple[str, str]], ...] | None:
    sides = _ARROW.split(plain(unwrap(tidy(latex))))
    if len(sides) != 2:
        return None
    found = [_side(side) for side in sides]
    return (found[0], found[1]) if found[0] and found[1] else None


def _side(text: str) -> Counter[tuple[str, str]] | None:
    """Coefficients and formulas of one side, without states."""
    terms = [term.strip() for term in _PLUS.split(text)]
    if not 0 < len(terms) <= MAX_TERMS:
        return None
    found: Counter[tuple[str, str]] = Counter()
    for term in terms:
        match = _TERM.fullmatch(term)
        substance = "e-" if match and squeeze(match[2]).strip("{}") in ("e^-", "e^{-", "e-") else match and formula(match[2])
        if not match or not substance:
            return None
        found[match[1] or "1", substance] += 1
    return found


def _nuclide(latex: str) -> tuple[str, str] | None:
    """Symbol and mass number."""
    text = squeeze(plain(unwrap(tidy(latex))))
    if match := _NUCLIDE.fullmatch(text):
        return (match[2], match[1]) if match[2] in ELEMENT_SYMBOLS else None
    if match := _HYPHENED.fullmatch(text):
        symbol = match[1] if match[1] in ELEMENT_SYMBOLS else element_symbol(match[1])
        return (symbol, match[2]) if symbol else None
    return None


def _same_list(reference: str, answer: str) -> bool:
    """Whether both name the same substances, in any order."""
    expected, found = ([item for item in _ITEMS.split(plain(unwrap(tidy(text)))) if item] for text in (reference, answer))
    if not 1 < len(expected) == len(found) <= MAX_TERMS:
        return False
    left = list(found)
    for item in expected:
        at = next((at for at, other in enumerate(left) if same_chemical(item, other)), None)
        if at is None:
            return False
        left.pop(at)
    return True
