"""Are two answers the same? What can be told exactly is told here; `algebra` is asked for the rest, part by part.

    read (value, unit, percent) -> numbers | words | choices | lists, sets, tuples, intervals, matrices (part by part) | algebra

True and False are certain, None means that only algebra can tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction

from .numbers import based
from .quantity import Quantity, exact, read, take_unit
from .spelling import clean, plain, tidy, unwrap
from .structure import Parts, assigned, by_variable, parts
from .units import parse_unit

Algebra = Callable[[str, str], bool | None]
DEGREES, RADIANS = parse_unit("^\\circ"), parse_unit("rad")
MAX_PARTS = 40
MAX_DEPTH = 4
_CHOICE = re.compile(r"\(([A-J])\)(?!\w)|([A-J])(?:[.):](?!\d)|$)")
_LETTER = re.compile(r"\(?([A-J])\)?")
_RATIO = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?::\d{1,9}(?:\.\d{1,9})?){1,5}")
_EQUATION = re.compile(r"(?=[^=]*[xyz])(?=[^=]*(?:[+^-]|\d ?[xyz]))[\w+^{} -]{2,200}=[^=<>]+\Z")
_ARTICLE = re.compile(r"^(?:the|a|an) ", re.IGNORECASE)
_PHRASE = re.compile(r"(?=.*[^\W\d_]{3}|no\b)[^\W\d_][\w\s'.,()!-]*", re.IGNORECASE | re.DOTALL)
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_GENES = re.compile(r"(?:([A-Za-z])(?i:\1))+")  # Rr is not rr
_LOOSE = re.compile(r"[^\w+\-\\{}()<>=/^,!%|:*]+")
SYNONYMS = {
    **dict.fromkeys(
        ["no solution", "no solutions", "no real solution", "no real solutions", "empty set", "\\{\\}"], "\\emptyset"
    ),
    **dict.fromkeys(["none", "there are no solutions", "there is no solution"], "\\emptyset"),
    **dict.fromkeys(["does not exist", "limit does not exist", "doesnt exist"], "dne"),
    **dict.fromkeys(["all real numbers", "all reals", "all real x", "real numbers", "\\mathbb{r}"], "\\mathbb{R}"),
    **dict.fromkeys(
        ["(-\\infty, \\infty)", "(-\\infty,\\infty)", "(-\\infty, +\\infty)", "(-\\infty,+\\infty)"], "\\mathbb{R}"
    ),
    **dict.fromkeys(["infinity", "positive infinity", "+\\infty"], "\\infty"),
    **dict.fromkeys(["negative infinity", "minus infinity"], "-\\infty"),
}


def no_algebra(gold: str, given: str) -> None:
    """For those who want only what is certain."""


def agree(gold: str, given: str, algebra: Algebra = no_algebra, depth: int = 0) -> bool | None:
    """Whether an answer equals the stored one. `algebra` gets two LaTeX texts."""
    if gold.strip() == given.strip():
        return True
    if (letters := _same_choice(gold, given)) is not None:
        return letters
    a, b = _both(gold, given)
    if a.unit and b.unit and not a.unit.agrees(b.unit):
        return False
    if a.number is not None and b.number is not None:
        return _same_number(a, b, a.number, b.number)
    if (same := _same_text(a, b)) is not None:
        return same
    return _same_parts(a, b, algebra, depth)


def _both(gold: str, given: str) -> tuple[Quantity, Quantity]:
    """Both taken apart alike: 0.5 m beside a formula is half of a variable, beside 3 \\text{ m} it has a unit."""
    a, b = read(gold), read(given)
    if a.number is not None and b.number is None and not a.marked:
        a = read(gold, whole=True)
    elif b.number is not None and a.number is None and not b.marked:
        b = read(given, whole=True)
    if a.unit and a.marked and not b.unit:
        b = take_unit(b, a.unit)
    elif b.unit and b.marked and not a.unit:
        a = take_unit(a, b.unit)
    return a, b


def word(text: str) -> str:
    """A phrase as it is compared: words in small letters, single spaces, no article, no hyphens and no punctuation.

    Symbols keep their case: R - r is not r - R.
    """
    text = _ARTICLE.sub("", _LOOSE.sub(" ", _HYPHEN.sub(" ", text.replace("'", ""))).strip())
    return _LETTERS.sub(lambda match: match[0] if _GENES.fullmatch(match[0]) else match[0].lower(), text)


def _spelled(text: str) -> str:
    """A phrase as `word` has it, a symbol as it is, one spelling for what has many names."""
    flat = word(text)
    return SYNONYMS.get(flat.lower()) or (flat if _PHRASE.fullmatch(text) else text)


def _same_choice(gold: str, given: str) -> bool | None:
    """(B), B., `\\textbf{(B)} 12` for the stored letter B."""
    wanted = _LETTER.fullmatch(clean(gold))
    got = _CHOICE.match(plain(unwrap(tidy(given)))) if wanted else None
    return wanted[1] == (got[1] or got[2]) if wanted and got else None


def _same_number(a: Quantity, b: Quantity, x: Fraction, y: Fraction) -> bool:
    if a.percent != b.percent and (b if a.percent else a).unit:
        return False
    if a.unit and b.unit and a.unit != b.unit:
        return x * a.unit.factor + a.unit.offset == y * b.unit.factor + b.unit.offset
    if a.percent == b.percent:
        return x == y
    return x == y or (x / 100 == y if a.percent else x == y / 100)


def _same_text(a: Quantity, b: Quantity) -> bool | None:
    if a.value == b.value:
        return a.unit is None or b.unit is None or a.unit == b.unit
    mine, theirs = (_spelled(text) for text in (a.text, b.text))
    if mine == theirs and mine:
        return True
    if a.words and b.words:
        return False
    return _same_digits(a.value, b.value)


def _same_digits(gold: str, given: str) -> bool | None:
    """Times of day and ratios, and numbers in a base: the base may be left out, a wrong one not be named."""
    if _RATIO.fullmatch(gold) and _RATIO.fullmatch(given):
        return _same_ratio(gold.split(":"), given.split(":"))
    mine, theirs = based(gold), based(given)
    if mine and theirs:
        return mine == theirs and mine[1] is not None
    return mine[0] == given if mine and given.isalnum() else None


def _same_ratio(gold: list[str], given: list[str]) -> bool:
    """2:4 is 1:2, but 2:40 is no 1:20 where both may be times of day."""
    x, y = [Fraction(part) for part in gold], [Fraction(part) for part in given]
    if len(x) != len(y) or x == y or (len(gold[1]) == 2 and len(given[1]) == 2):
        return x == y
    return all(p * y[0] == q * x[0] for p, q in zip(x, y, strict=True))


def _same_parts(a: Quantity, b: Quantity, algebra: Algebra, depth: int) -> bool | None:
    x, y = _unassigned(a.text, b.text)
    if (x, y) != (a.text, b.text):
        return agree(x, y, algebra, depth + 1) if depth < MAX_DEPTH else None
    mine, theirs = parts(x), parts(y)
    if mine and theirs and depth < MAX_DEPTH and max(len(mine.items), len(theirs.items)) <= MAX_PARTS:
        verdict = _compare_parts(mine, theirs, lambda p, q: agree(p, q, algebra, depth + 1))
        if verdict is not None:
            return verdict
    if a.number is not None and theirs:  # a number is no list of several, but 2 and 2/5 may be one number
        return exact(b.text.replace(" and ", "")) == a.number or (None if len(theirs.items) == 1 else False)
    if b.number is not None and mine and mine.kind in ("list", "set", "tuple", "matrix") and len(mine.items) > 1:
        return False
    if _EQUATION.match(x) and "=" not in y:  # x + y = 4 is a line
        return False
    return _by_algebra(a, b, algebra)


def _by_algebra(a: Quantity, b: Quantity, algebra: Algebra) -> bool | None:
    if {a.unit, b.unit} == {DEGREES, RADIANS}:
        turned = (f"({one.text})\\cdot\\frac{{\\pi}}{{180}}" if one.unit == DEGREES else one.text for one in (a, b))
        return algebra(*turned)
    if a.unit and b.unit and a.unit.factor != b.unit.factor:
        return algebra(_scaled(a.text, a.unit.factor), _scaled(b.text, b.unit.factor))
    return algebra(a.text, b.text)


def _unassigned(gold: str, given: str) -> tuple[str, str]:
    """Both without the name that only one of them has, or that both share."""
    mine, theirs = assigned(gold), assigned(given)
    if mine and theirs:
        return (mine[1], theirs[1]) if mine[0] == theirs[0] else (gold, given)
    if mine and "=" not in given:
        return mine[1], given
    if theirs and "=" not in gold:
        return gold, theirs[1]
    return gold, given


def _scaled(text: str, factor: Fraction) -> str:
    return f"({text})\\cdot\\frac{{{factor.numerator}}}{{{factor.denominator}}}"


def _compare_parts(gold: Parts, given: Parts, same: Algebra) -> bool | None:
    """Part by part: in order where the stored answer has one, otherwise as sets with repetition."""
    if gold.variable and given.variable and gold.variable != given.variable:
        return None
    if gold.kind == "tuple" and (sorted_parts := by_variable(given)):
        given = sorted_parts
    elif given.kind == "tuple" and (sorted_parts := by_variable(gold)):
        gold = sorted_parts
    elif by_variable(gold) and given.kind == "list" and not any(map(assigned, given.items)):  # in the order as written
        gold, given = (replace(one, kind="tuple", brackets="()") for one in (gold, given))
    if {gold.kind, given.kind} == {"tuple", "set"}:
        return False
    if not gold.ordered and not given.ordered:
        return _same_set(gold.items, given.items, same)
    if gold.kind == given.kind and gold.brackets != given.brackets:
        return False
    loose = gold.kind == given.kind or {gold.kind, given.kind} == {"tuple", "list"}
    if not loose or "union" in (gold.kind, given.kind):
        return None
    if len(gold.items) != len(given.items):
        return False
    return every(same(x, y) for x, y in zip(gold.items, given.items, strict=True))


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """False if one is False, else None if one is None, else True; stops at the first False."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


def _same_set(gold: tuple[str, ...], given: tuple[str, ...], same: Algebra) -> bool | None:
    if len(gold) != len(given):
        return False
    rest, unknown = list(given), False
    for wanted in gold:
        partner, doubtful = None, False
        for at, got in enumerate(rest):
            verdict = same(wanted, got)
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
