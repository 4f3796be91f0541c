"""Numbers with units as science writes them: within a tolerance, in words, with an error bar, behind `v = a t =`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from ..api import Answer
from .error_bars import measurement
from .extraction import stored_answer
from .plain_numbers import significant_digits
from .quantity import Quantity, exact, read, take_unit
from .spelling import plain, tidy, unwrap
from .units import Unit, parse_unit
from .word_numbers import MAX_WORDS, ORDINALS, word_number

REL_TOL = Fraction(1, 100)
ROUNDED = Fraction(1, 20)  # how far the rounded sides of a chain of equations may be apart
MAX_SIDES = 12
HALF_KELVIN = Fraction(1, 2)  # 25 degrees Celsius are taken for 298 K
Constant = Callable[[str], Fraction | None]
_RELATION = re.compile(r"=|\\approx|\\sim(?![a-z])")
_LABEL = re.compile(r"\A\s*(?:the )?(?:pH|pOH|pKa|pKb|pK_[ab])\s*(?:is|of|:)?\s*(?=[-\d.])")
_GLUED = re.compile(r"([-+]?[\d.,]+(?:[eE][-+]?\d+)?(?: ?(?:\\times|\\cdot) ?10\^\{?[-+]?\d+\}?)?) ?(?=[A-Za-z\\^(])")


def core(text: str) -> str:
    """The formula of a sentence that holds exactly one, with the unit behind it; otherwise the text."""
    if text.count("$") != 2 or text.lstrip().startswith("$"):
        return text
    _, inside, after = text.split("$")
    behind = after.strip().rstrip(".")
    return f"{inside} \\text{{{behind}}}" if parse_unit(behind) else inside


def measured(text: str, wanted: Unit | None) -> Quantity:
    """Number and unit of the last side of `v = a t = 3.2 m/s`. `wanted`: a unit that may stand there without \\text{}."""
    side = _RELATION.split(plain(unwrap(tidy(text))))[-1] if "\\text" not in text else _RELATION.split(tidy(text))[-1]
    found = read(_LABEL.sub("", side))
    if wanted and (fitting := take_unit(found, wanted)).unit and (fitting.number is not None or not wanted.has_nouns):
        return fitting
    if found.number is None and not found.unit and (match := _GLUED.match(found.text)):
        head, tail = match[1], found.text[match.end() :]
        apart = found.text[match.end() - 1] == " "
        unit = parse_unit(tail) or (parse_unit(tail, nouns=True, marked=found.marked) if apart else None)
        if unit and exact(head) is not None:
            return replace(read(head, whole=True), unit=unit)
    if found.number is None and not found.unit:
        return in_words(found.text) or found
    return replace(found, unit=parse_unit(found.rest, nouns=True, marked=True)) if found.rest else found


def is_chain_of_equals(text: str, last: Quantity) -> bool:
    """Whether the numbers of `F = 1.5 \\times 3 = 4.5 N` are roughly the last one; x = 3 = 5 = 7 names three."""
    sides = _RELATION.split(tidy(text))[:-1]
    found = [read(side) for side in sides[-MAX_SIDES:] if side.strip()]
    if last.number is None or len(sides) > MAX_SIDES:
        return len(sides) <= MAX_SIDES
    for side in found:
        if side.number is None:
            continue
        x, y = side.number, last.number
        if side.unit and last.unit:
            x, y = (
                one.number * one.unit.factor + one.unit.offset for one in (side, last) if one.number is not None and one.unit
            )
        if side.percent != last.percent:
            x, y = (x / 100, y) if side.percent else (x, y / 100)
        if abs(x - y) > ROUNDED * max(abs(x), abs(y)):
            return False
    return True


def in_words(text: str) -> Quantity | None:
    """Twenty-five, or five photons; None for a text that does not begin with a number in words."""
    words = text.split()
    if ordinal := ORDINALS.get(text.strip().lower()):
        return read(str(ordinal))
    for count in range(min(len(words), MAX_WORDS), 0, -1):
        value, tail = word_number(" ".join(words[:count])), " ".join(words[count:])
        unit = parse_unit(tail, nouns=True, marked=True) if value is not None and tail else None
        if value is not None and (unit or not tail):
            return replace(read(str(value), whole=True), unit=unit)
    return None


def allowed_error(spec: Answer, reference: Quantity) -> Fraction:
    """How far a value may be from the stored one, in the stored unit."""
    assert reference.number is not None
    size = abs(reference.number)
    if "rel_tol" in spec or "abs_tol" in spec:
        rel, absolute = (Fraction(Decimal(str(spec.get(key, 0)))) for key in ("rel_tol", "abs_tol"))
        return max(rel * size, absolute)
    digits = significant_digits(reference.value)
    is_word = reference.number.denominator == 1 and not re.search(r"\d", reference.value)
    if is_word or re.sub(r"[+, -]", "", reference.value).isdigit():
        return REL_TOL * size if reference.unit else Fraction(0)
    if "frac" in reference.value or "/" in reference.value or digits < 2:
        return REL_TOL * size
    mantissa = re.sub(r"[^0-9]", "", re.split(r"[eE\\*]", reference.value, maxsplit=1)[0]).lstrip("0")
    return max(REL_TOL * size, size / (2 * int(mantissa)))


def same_number(spec: Answer, answer: str, constant: Constant | None) -> bool | None:
    """Whether two numbers with units agree. `constant` works out answers that are not plain numbers; without it they are
    None.
    """
    text, bar = stored_number(spec)
    reference = measured(text, None)
    unit = parse_unit(plain(unwrap(tidy(spec["unit"])))) if spec.get("unit") else reference.unit
    answer = core(answer)
    if bar and (own := measurement(answer)):
        if not bar / 2 <= own.bar <= 2 * bar:
            return False
        answer = own.text
    reference, found = replace(reference, unit=unit), measured(answer, unit)
    if not units_agree(spec, unit, found.unit):
        return False
    if not is_chain_of_equals(answer, found):
        return False
    x = found.number
    if x is None and constant:
        x = constant(found.text)
    if x is None or reference.number is None:
        return False if constant else None
    allowed = max(bar, allowed_error(spec, reference))
    if unit and found.unit:
        x = (x * found.unit.factor + found.unit.offset - unit.offset) / unit.factor
        if unit.offset != found.unit.offset:
            allowed += HALF_KELVIN / unit.factor
    return near(reference, found.percent, x, allowed)


def units_agree(spec: Answer, wanted: Unit | None, found: Unit | None) -> bool:
    """Whether a unit will do for the stored one. A counted noun may be left out, another unit only if the answer allows it."""
    if wanted is None:
        return True
    return wanted.agrees(found) if found else wanted.is_count or bool(spec.get("unit_optional", False))


def stored_number(spec: Answer) -> tuple[str, Fraction]:
    """The stored number with its unit, and the length of its error bar: 0 where it has none, or where tolerances are given."""
    text = core(stored_answer(spec))
    stored = measurement(text)
    if stored is None:
        return text, Fraction(0)
    return stored.text, Fraction(0) if "rel_tol" in spec or "abs_tol" in spec else stored.bar


def near(reference: Quantity, percent: bool, x: Fraction, allowed: Fraction) -> bool:
    """Whether x is as near to the stored number as allowed. percent: whether x had a percent sign."""
    assert reference.number is not None
    if reference.percent == percent:
        return abs(x - reference.number) <= allowed
    if reference.percent:
        hundredth = abs(x - reference.number / 100) <= allowed / 100
    else:
        hundredth = abs(x / 100 - reference.number) <= allowed
    return hundredth or x == reference.number
