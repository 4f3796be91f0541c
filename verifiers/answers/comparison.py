"""Whether two answers are the same. Certain cases are told exactly; `algebra` is asked for the rest, part by part.

    read (value, unit, percent) -> numbers | words | choices | lists, sets, tuples, intervals, matrices (part by part) | algebra

True and False are certain; None means that only algebra can tell. "reference" is the stored answer, "answer" the completion's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from .chains import has_names, meets_chain, members, name_first, same_spellings, spellings_of
from .congruences import same_residues
from .lone_signs import lone_sign, without_subject
from .plain_numbers import based, rounded_from
from .quantity import Quantity, exact, read, take_unit
from .remarks import has_words, hedged, without_remark
from .spelling import tidy, unwrap
from .structure import Parts, assigned, by_variable, is_order, other_domains, parts
from .three_valued import Algebra, every, no_algebra
from .units import parse_unit
from .wordings import phrase_form, same_letter, same_letters, says_yes_or_no

DEGREES, RADIANS = parse_unit("^\\circ"), parse_unit("rad")
MAX_PARTS = 40
MAX_DEPTH = 4
_RATIO = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?::\d{1,9}(?:\.\d{1,9})?){1,5}")
_EQUATION = re.compile(r"(?=[^=]*[xyz])(?=[^=]*(?:[+^-]|\d ?[xyz]))[\w+^{} -]{2,200}=[^=<>]+\Z")
_HALF_TURN = re.compile(r"\\pi(?![a-zA-Z])|\\arc|\^\{-1\}")
_INVERSE = re.compile(r"\\arc|\^\{-1\}")
_POINT = re.compile(r"[A-Z]'? ?(\([^()=]*,[^()=]*\))")
_MARK = re.compile(r"\\(?:Rightarrow|therefore|mapsto|forall|ldots)(?![a-zA-Z])|(?<!\\)(?<!_\{.)(?<!_\{. )\\to(?![a-zA-Z])")


def agree(reference: str, answer: str, algebra: Algebra = no_algebra, depth: int = 0) -> bool | None:
    """Whether an answer equals the stored one. `algebra` gets two LaTeX texts."""
    if reference.strip() == answer.strip():
        return True
    if (same := same_letter(reference, answer)) is not None:
        return same
    if other_domains(reference, answer):
        return False
    a, b = _read_both(reference, answer)
    if a.unit and b.unit and not a.unit.agrees(b.unit):
        return False
    if a.number is not None and b.number is not None:
        return same_quantity(a, b)
    if lone_sign(a.text) != lone_sign(b.text):
        said = without_subject(a.text, b.text)
        return agree(*said, algebra, depth + 1) if said and depth < MAX_DEPTH else False
    if (same := same_letters(a.value, b.value, words=a.words)) is not None:
        return same
    if (same := _same_text(a, b)) is not None and (same or not has_words(b.text)):
        return same
    if depth < MAX_DEPTH and (said := _said_otherwise(reference, answer, a, b)):
        return agree(*said, algebra, depth + 1)
    if same is not None:
        return same
    return _same_parts(a, b, algebra, depth)


def _said_otherwise(reference: str, answer: str, a: Quantity, b: Quantity) -> tuple[str, str] | None:
    """Both texts without remarks around them; None where there are none. A stored phrase keeps its words."""
    if not has_words(a.text) and not has_words(b.text):
        return None
    stored, given = unwrap(tidy(reference)), unwrap(tidy(answer))
    shorter = (stored if a.words else without_remark(stored), without_remark(given))
    return None if shorter == (stored, given) else shorter


def _read_both(reference: str, answer: str) -> tuple[Quantity, Quantity]:
    """Take both apart in the same way: 0.5 m beside a formula is half of a variable, beside 3 \\text{ m} it has a unit."""
    a, b = read(reference), read(answer)
    if a.number is not None and b.number is None and not a.marked:
        a = read(reference, whole=True)
    elif b.number is not None and a.number is None and not b.marked:
        b = read(answer, whole=True)
    if a.unit and a.marked and not b.unit:
        b = take_unit(b, a.unit)
    elif b.unit and b.marked and not a.unit:
        a = take_unit(a, b.unit)
    return a, b


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Whether two plain numbers are the same in value, unit and percent sign; a is the stored one."""
    x, y = a.number, b.number
    if x is None or y is None or (a.percent != b.percent and (b if a.percent else a).unit):
        return False
    if a.unit and b.unit and a.unit != b.unit:
        return x * a.unit.factor + a.unit.offset == y * b.unit.factor + b.unit.offset
    if a.percent == b.percent:
        return x == y or rounded_from(a.value, b.value)
    if a.percent:
        return y in (x, x / 100)
    # 50\\% is .5, and 50 where a percentage was asked for; but .5\\% is not .5
    return y / 100 == x or (x == y and abs(x) >= 1)


def _same_text(a: Quantity, b: Quantity) -> bool | None:
    if a.value == b.value:
        return a.unit is None or b.unit is None or a.unit == b.unit
    expected, found = (phrase_form(text) for text in (a.text, b.text))
    if (expected == found and expected) or says_yes_or_no(expected, found):
        return True
    if a.words and b.words:
        return len(names := _names(expected)) > 1 and names == _names(found)
    return _same_digits(a.value, b.value)


def _names(text: str) -> list[str]:
    """The members of a list of names, in alphabetical order."""
    return sorted(one.strip() for one in re.split(r",| and ", text) if one.strip())


def _same_digits(reference: str, answer: str) -> bool | None:
    """Compare times of day, ratios, and numbers in a base. The base may be left out, but must not be wrong."""
    if _RATIO.fullmatch(reference) and _RATIO.fullmatch(answer):
        return _same_ratio(reference.split(":"), answer.split(":"))
    expected, found = based(reference), based(answer)
    if expected and found:
        return expected == found and expected[1] is not None
    return expected[0] == answer if expected and answer.isalnum() else None


def _same_ratio(reference: list[str], answer: list[str]) -> bool:
    """2:4 is 1:2, but 2:40 is not 1:20 where both may be times of day."""
    x, y = [Fraction(part) for part in reference], [Fraction(part) for part in answer]
    if len(x) != len(y) or x == y or (len(reference[1]) == 2 and len(answer[1]) == 2):
        return x == y
    return all(p * y[0] == q * x[0] for p, q in zip(x, y, strict=True))


def _same_parts(a: Quantity, b: Quantity, algebra: Algebra, depth: int) -> bool | None:
    def same(p: str, q: str) -> bool | None:
        return agree(p, q, algebra, depth + 1)

    x, y = _unassigned(name_first(a.text), name_first(b.text))
    if (x, y) != (a.text, b.text):
        return agree(x, y, algebra, depth + 1) if depth < MAX_DEPTH else None
    if (verdict := same_residues(x, y)) is not None:
        return verdict
    if depth < MAX_DEPTH:
        decided, verdict = _said_twice(x, y, same)
        if decided:
            return verdict
    expected, found = parts(x), parts(y)
    if expected and found and depth < MAX_DEPTH and max(len(expected.items), len(found.items)) <= MAX_PARTS:
        verdict = _compare_parts(expected, found, same)
        if verdict is not None:
            return verdict
    if a.number is not None and found:
        # a number is not a list of several numbers, but 2 and 2/5 may be one number, and {2} is
        if len(found.items) == 1 and found.kind == "set":
            return same(x, found.items[0])
        return exact(b.text.replace(" and ", "")) == a.number or (None if len(found.items) == 1 else False)
    if b.number is not None and expected and expected.kind in ("list", "set", "tuple", "matrix") and len(expected.items) > 1:
        return False
    if _EQUATION.match(x) and "=" not in y:  # x + y = 4 is a line
        return False
    return _by_algebra(a, b, algebra)


def _said_twice(reference: str, answer: str, same: Algebra) -> tuple[bool, bool | None]:
    """The verdict where one of both gives several spellings of one value: (whether it is decided here, verdict)."""
    if spellings := spellings_of(reference, stored=True):
        one_value = same_spellings(spellings, same) if "\\approx" not in reference else True
        if one_value is None:
            return True, None
        if one_value:
            verdicts = [same(one, answer) for one in spellings]
            return True, True if True in verdicts else (None if None in verdicts else False)
    if "=" not in reference and (chain := members(answer)):
        verdict = meets_chain(reference, chain, same)
        return (True, verdict) if verdict is not None or not has_names(reference) else (False, None)
    if not parts(reference) and (spellings := spellings_of(answer, stored=False)):
        return True, every(same(reference, one) for one in spellings)
    return False, None


def _by_algebra(a: Quantity, b: Quantity, algebra: Algebra) -> bool | None:
    if "\\begin" not in b.text and hedged(b.text) and not hedged(a.text):
        return False
    if set(_MARK.findall(a.text)) != set(_MARK.findall(b.text)):
        return False
    if (
        {a.unit, b.unit} == {DEGREES, RADIANS}
        or (a.unit == DEGREES and b.unit is None and _HALF_TURN.search(b.text))
        or (b.unit == DEGREES and a.unit is None and _INVERSE.search(a.text))
    ):
        in_radians = (f"({one.text})\\cdot\\frac{{\\pi}}{{180}}" if one.unit == DEGREES else one.text for one in (a, b))
        return algebra(*in_radians)
    if a.unit and b.unit and a.unit.factor != b.unit.factor:
        return algebra(_scaled(a.text, a.unit.factor), _scaled(b.text, b.unit.factor))
    return algebra(a.text, b.text)


def _unassigned(reference: str, answer: str) -> tuple[str, str]:
    """Both without the name that only one of them has, or that both share."""
    expected, found = assigned(reference), assigned(answer)
    if expected and found:
        return (expected[1], found[1]) if expected[0] == found[0] else (reference, answer)
    if expected and "=" not in answer:
        return expected[1], answer
    if found and "=" not in reference:
        return reference, found[1]
    if (point := _POINT.fullmatch(reference)) and answer.startswith("("):
        return point[1], answer
    if (point := _POINT.fullmatch(answer)) and reference.startswith("("):
        return reference, point[1]
    return reference, answer


def _scaled(text: str, factor: Fraction) -> str:
    return f"({text})\\cdot\\frac{{{factor.numerator}}}{{{factor.denominator}}}"


def _compare_parts(reference: Parts, answer: Parts, same: Algebra) -> bool | None:
    """Compare part by part: in order where the stored answer has one, otherwise as sets with repetition."""
    if reference.variable and answer.variable and reference.variable != answer.variable:
        return None
    if reference.kind == "tuple" and (sorted_parts := by_variable(answer)):
        answer = sorted_parts
    elif answer.kind == "tuple" and (sorted_parts := by_variable(reference)):
        reference = sorted_parts
    elif by_variable(reference) and answer.kind == "list" and not any(map(assigned, answer.items)):
        # values without names: in the order as written
        reference, answer = (replace(one, kind="tuple", brackets="()") for one in (reference, answer))
    if {reference.kind, answer.kind} == {"tuple", "set"}:
        return False
    if is_order(reference) and answer.kind == "list":
        return reference.items == answer.items
    if {reference.kind, answer.kind} == {"tuple", "list"} and (reference.variable or answer.variable):
        # two numbers are no inequality between them
        return False
    if not reference.ordered and not answer.ordered:
        return _same_set(reference.items, answer.items, same)
    if reference.kind == answer.kind and reference.brackets != answer.brackets:
        return False
    comparable = reference.kind == answer.kind or {reference.kind, answer.kind} == {"tuple", "list"}
    if not comparable or "union" in (reference.kind, answer.kind):
        return None
    if len(reference.items) != len(answer.items):
        return False
    return every(same(x, y) for x, y in zip(reference.items, answer.items, strict=True))


def _same_set(reference: tuple[str, ...], answer: tuple[str, ...], same: Algebra) -> bool | None:
    if len(reference) != len(answer):
        return False
    rest, unknown = list(answer), False
    for wanted in reference:
        partner, doubtful = None, False
        for at, candidate in enumerate(rest):
            verdict = same(wanted, candidate)
            if verdict:
                partner = at
                break
            doubtful = doubtful or verdict is None
        if partner is not None:
            rest.pop(partner)
        elif not doubtful:
            return False
        unknown = unknown or partner is None
    return None if unknown else True
