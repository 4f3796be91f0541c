"""A boxed answer taken apart: the value, a percent sign, the unit behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import islice

from .plain_numbers import number
from .remarks import conditional, hedged
from .spelling import END, WORD, plain, squeeze, tidy, unwrap
from .units import MAX_UNIT_CHARS, Unit, parse_unit
from .word_numbers import word_number

MAX_WORDS_CHARS = 80  # of a number in words
MAX_SPLITS = 12  # places where a value may end
_UNIT_FRACTION = re.compile(
    rf"\\frac ?\{{ ?({WORD}[^{{}}{END}]*{END}(?:\^\{{?\d\}}?)?) ?\}}\{{ ?({WORD}[^{{}}{END}]*{END}(?:\^\{{?\d\}}?)?) ?\}}$"
)
_BARE_TAIL = re.compile(r"(?<=[\d.})])(?: (?=[A-Za-z\\(^])|(?=\^\\circ|\\mu|\\Omega|[A-Za-z€£¥][A-Za-z/^\\.]))")
_APPROXIMATE = re.compile(r"\A(?:\\approx|\\sim|about|approximately|roughly) ?")
_OPERATION = (
    r"and|or|to|by|squared|cubed|factorial|times|over|plus|minus|mod|choose|percent of|"
    r"a?r?c?(?:sin|cos|tan|cot)h?|log|ln|exp|sqrt"
)
_UNITS = re.compile(r"(?:(?:square|sq\.?|cubic) )?units?(?: ?\^\{?\d\}?)?")
_REST = re.compile(rf"(?!(?:{_OPERATION})\b)\(?[a-zA-Z]{{3}}[a-zA-Z '.,()-]*|{_UNITS.pattern}")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_ORDINAL = re.compile(r"(\d{1,9}) ?\^?\{? ?(?:st|nd|rd|th) ?\}?")
_COMPOUND = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([a-zA-Z]{1,9}),? (?:and )?(\d{1,9}(?:\.\d{1,9})?) ?([a-zA-Z]{1,9})")
_MINUTES = re.compile(r"(\d{1,4}) ?\^\\circ ?(\d{1,2}) ?'(?: ?(\d{1,2}(?:\.\d{1,9})?) ?'')?")
_MONEY = re.compile(r"(?P<sign>-?)(?P<unit>\\\$|[€£¥]) ?(?=[\d.])")
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(?<![\w.,^{{}}])(\d{{1,9}}(?:,\d{{3}}){{0,3}}(?:\.\d{{1,9}})?) ?({WORD}? ?)({'|'.join(_SCALES)})s?\b")
_GAP = re.compile(r"\d \d|\d ?, (?!000)\d")
_WORDS = re.compile(r"[^\W\d_][\w\s'.,()-]*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An answer taken apart."""

    text: str  # without unit and percent sign
    value: str  # the same, squeezed
    number: Fraction | None  # its exact value, if it is a plain number
    unit: Unit | None
    percent: bool
    words: bool  # the text is words, not mathematics
    rest: str  # an unknown unit behind the value
    marked: bool  # the answer uses \\text{}, so a unit can be told from a product of variables


@lru_cache(maxsize=512)  # the rollouts of a group share their stored answer
def read(latex: str, *, whole: bool = False) -> Quantity:
    """Take an answer apart. whole: leave the unit in the text."""
    marked = _APPROXIMATE.sub("", _UNIT_FRACTION.sub(r"\1/(\2)", unwrap(tidy(latex))))
    marked = _SCALED.sub(_multiplied, marked)
    text, has_mark = plain(marked), WORD in marked
    if money := _MONEY.match(text):
        return _quantity(money["sign"] + text[money.end() :], parse_unit(money["unit"]), marked=True)
    if ordinal := _ORDINAL.fullmatch(text):
        return _quantity(ordinal[1])
    if not whole and exact(text) is None:
        if compound := _compound(text):
            return compound
        for head, tail in _splits(marked, text):
            if unit := parse_unit(tail):
                return _quantity(head, unit, marked=has_mark or "^\\circ" in tail)
            apart = has_mark or text[len(head) : len(head) + 1] == " "  # 2abc is a product
            if _UNITS.fullmatch(tail) or (apart and exact(head.rstrip("% ")) is not None and _is_rest(tail)):
                return _quantity(head, rest=tail, marked=has_mark)
        word, _, tail = text.partition(" ")
        if tail and word.isalpha() and _is_rest(tail) and word_number(word) is not None:
            return _quantity(word, parse_unit(tail), rest=tail, marked=has_mark)
    return _quantity(text, words=_is_words(marked, text), marked=has_mark)


def _is_rest(text: str) -> bool:
    """Whether the words behind a value are an unknown unit: "does not work" takes it back, "for even n" bounds it."""
    return _REST.fullmatch(text) is not None and not hedged(text) and not conditional(text)


def _multiplied(match: re.Match[str]) -> str:
    """5 million as 5000000."""
    value = Decimal(match[1].replace(",", "")) * _SCALES[match[3]]
    space = " " if match[2] else ""
    return f"{value.normalize():f}{space}{match[2]}"


def _compound(text: str) -> Quantity | None:
    """5 feet 3 inches, in the first unit; 22^\\circ 30', in degrees."""
    if match := _MINUTES.fullmatch(text):
        value = Fraction(match[1]) + Fraction(match[2]) / 60 + Fraction(match[3] or 0) / 3600
        return Quantity(text, text, value, parse_unit("^\\circ"), False, False, "", True)
    if not (match := _COMPOUND.fullmatch(text)):
        return None
    large, small = parse_unit(match[2]), parse_unit(match[4])
    if large is None or small is None or large.powers != small.powers:
        return None
    value = Fraction(match[1]) + Fraction(match[3]) * small.factor / large.factor
    return Quantity(text, text, value, large, False, False, "", True)


def take_unit(found: Quantity, wanted: Unit) -> Quantity:
    """Read the last words of a quantity as a unit that fits `wanted`, the unit of the answer it is compared with."""
    if found.unit or found.rest:
        return found
    tail = found.text[-MAX_UNIT_CHARS:]
    for match in re.finditer(r"(?<=[\w.})])\s?(?=[A-Za-z\\^(])", tail):
        unit = parse_unit(tail[match.start() :])
        if unit and unit.agrees(wanted):
            return replace(read(found.text[: len(found.text) - len(tail) + match.start()], whole=True), unit=unit)
    return found


def exact(text: str) -> Fraction | None:
    """The value of a plain number that may hold spaces. 3 1/4 differs from 31/4, and 1, 234 are two numbers."""
    if (value := number(text) if _GAP.search(text) else number(squeeze(text))) is not None:
        return value
    return word_number(text) if text[:1].isalpha() and len(text) <= MAX_WORDS_CHARS else None


def _splits(marked: str, text: str) -> list[tuple[str, str]]:
    """Pairs (value, unit) that the text may consist of: split at the first marked word, or behind a plain number."""
    found = []
    at = marked.find(WORD)
    if at > 0 and marked[at - 1] not in "_^{" and (head := plain(marked[:at])) and head[-1] not in "+-*/=":
        symbol = next((one for one in ("\\mu", "^\\circ") if head.endswith(one)), "")
        found.append((head.removesuffix(symbol), f"{symbol} {plain(marked[at:])}".strip()))
    if text.endswith("^\\circ") and " or " not in text and not _TRIGONOMETRY.search(text):
        found.append((text.removesuffix("^\\circ"), "^\\circ"))
    for match in islice(_BARE_TAIL.finditer(text), MAX_SPLITS):
        if exact(text[: match.start()]) is not None:
            found.append((text[: match.start()], text[match.start() :].strip()))
    return [(head.strip("* "), tail) for head, tail in found]


def _quantity(text: str, unit: Unit | None = None, *, rest: str = "", words: bool = False, marked: bool = False) -> Quantity:
    bare = text.removesuffix("percent").rstrip()
    percent = bare != text or bare.endswith("%")
    bare = bare.rstrip("% ")
    if rest in ("percent", "percents", "percentage"):
        percent, rest = True, ""
    return Quantity(bare, squeeze(bare), exact(bare), unit, percent, words, rest, marked)


def _is_words(marked: str, text: str) -> bool:
    """Whether the text is words: some letters in a row stood in \\text{}, or are too many to be a product of variables."""
    if not _WORDS.fullmatch(text):
        return False
    longest = max(map(len, re.findall(r"[^\W\d_]+", text)), default=0)
    return longest > 3 or (WORD in marked and longest > 1)
