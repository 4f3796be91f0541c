r"""Answers that say one thing more than once: \frac{10}{12} = \frac{5}{6}, n = 4 + 25 = 29, \sqrt{2} \approx 1.414, 1/2 or 0.5.

A chain counts only if it holds: every member that has a value must agree with the stored answer, so that a list of guesses
earns nothing. A stored answer that spells one value twice is met by either spelling.
"""

from __future__ import annotations

import re
from fractions import Fraction

from .quantity import exact
from .spelling import split_top
from .structure import is_name
from .three_valued import Algebra, every

MAX_MEMBERS = 8
_SIGN = re.compile(r"\\approx ?|\\\{|\\\}|=|[()\[\]{}]")
# what is spelled with letters and is no name
_COMMANDS = re.compile(
    r"\\(?:infty|pi|frac|sqrt|cdot|times|binom|ln|log|exp|sin|cos|tan|cot|sec|csc|arc[a-z]{3}|circ|pm|text|max|min|gcd|lcm|sum|prod"
    r"|lfloor|rfloor|lceil|rceil|ldots|mathrm|cosh|sinh|tanh)(?![a-zA-Z])|\^\\circ"
)
_NAMES = re.compile(r"(?<![a-zA-Z])[a-df-hj-zA-Z](?![a-zA-Z])|[a-zA-Z]{2,}|\\[a-zA-Z]+")
_LETTER = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])|[dD](?=[a-z](?![a-zA-Z]))|\\text")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|neq|equiv)(?![a-z])")
_LINE = re.compile(r"\d ?[xyz](?![a-zA-Z])|(?<![a-zA-Z])[xyz]\^")
_BOUND = re.compile(r"\\(?:int|lim|sum|prod|max|min)(?![a-zA-Z])")  # x is bound in these
_INDEXED = re.compile(r"_(?:\{[^{}]{0,20}\}|\w)|\([^()]{0,20}\)")
_DECIMAL = re.compile(r"-?\d{0,30}\.\d{1,30}|-?\d{1,30}")
_SAID_AGAIN = r"or|i\.e\.|that is|equivalently|or equivalently"
_ALTERNATIVE = re.compile(rf" ?[,;]? (?:{_SAID_AGAIN}|which is|which equals),? (?!(?:more|less|fewer|greater)\b)")
_BRACKETED = re.compile(rf"(?P<head>[^()]{{1,80}}?) ?\( ?(?:(?P<word>{_SAID_AGAIN}|=|\\approx),? ?)?(?P<tail>[^()]{{1,80}})\)")
_PLAIN_NUMBER = re.compile(r"[\d.,/ -]{1,40}|-?\\frac\{\d{1,20}\}\{\d{1,20}\}")


def members(text: str) -> list[tuple[str, str]]:
    """The members of a chain with the sign before each ("" for the first); empty for a text that is no chain."""
    listed = " or " in text or " and " in text or len(split_top(text)) > 1
    if listed or "\\begin" in text or ("=" not in text and "\\approx" not in text):
        return []
    found, depth, start, sign = [], 0, 0, ""
    for match in _SIGN.finditer(text):
        token = match[0]
        if token in ("(", "[", "{", "\\{"):
            depth += 1
        elif token in (")", "]", "}", "\\}"):
            depth -= 1
        elif depth == 0:
            found.append((sign, text[start : match.start()].strip()))
            start, sign = match.end(), token.strip()
    found.append((sign, text[start:].strip()))
    sound = 1 < len(found) <= MAX_MEMBERS and all(one and not _RELATION.search(one) for _, one in found)
    return found if sound else []


def has_names(text: str) -> bool:
    """Whether a formula holds names of variables or words, so that it has no value of its own."""
    return bool(_NAMES.search(_COMMANDS.sub(" ", text)))


def name_first(text: str) -> str:
    """9 = n as n = 9."""
    found = members(text)
    if len(found) == 2 and found[1][0] == "=" and is_name(found[1][1]) and not is_name(found[0][1]):
        return f"{found[1][1]} = {found[0][1]}"
    return text


def meets_chain(reference: str, chain: list[tuple[str, str]], same: Algebra) -> bool | None:
    """Whether a chain of members holds and says the stored answer, which is no chain itself."""
    if has_names(reference):
        return _meets_formula(reference, chain, same)
    # 2x = 8 and x^2 + y^2 = 4 are equations; the integral of 2x is a number
    if any(_LINE.search(_INDEXED.sub("", one)) and not _BOUND.search(one) for _, one in chain):
        return False
    exact_ones = [one for sign, one in chain if sign != "\\approx" and not has_names(one)]
    rounded = [one for sign, one in chain if sign == "\\approx"]
    if any(has_names(one) for one in rounded) or not (exact_ones or rounded):
        return False
    if not exact_ones:  # a name and a rounded value
        return every(same(reference, one) for one in rounded)
    if _DECIMAL.fullmatch(reference) and rounded and exact(rounded[-1]) == exact(reference):
        return every(is_rounded(one, rounded[-1], same) for one in exact_ones)
    valued = [(sign, one) for sign, one in chain if not has_names(one)]
    return every(is_rounded(reference, one, same) if sign == "\\approx" else same(reference, one) for sign, one in valued)


def _meets_formula(reference: str, chain: list[tuple[str, str]], same: Algebra) -> bool | None:
    """A formula may have a name before it or behind it; everything else must agree."""
    values = [one for _, one in chain]
    if is_name(values[0]) and not is_name(reference):
        values = values[1:]
    elif is_name(values[-1]) and not is_name(reference):
        values = values[:-1]
    elif not _single_letters(values[0]) <= _single_letters(reference):  # dy/dx and V(r) are names, (x-1)^2 is not
        values = values[1:]
    return every(same(reference, one) for one in values) if values else None


def _single_letters(text: str) -> set[str]:
    return set(_LETTER.findall(text))


def is_rounded(value: str, decimal: str, same: Algebra) -> bool | None:
    """Whether a decimal number is a value rounded or cut off at its last digit. A decimal needs two digits at least."""
    if not _DECIMAL.fullmatch(decimal) or sum(map(str.isdigit, decimal)) < 2:
        return same(value, decimal)
    digits = len(decimal.partition(".")[2])
    wanted = int(decimal.replace(".", ""))
    known = exact(value)
    if known is not None:
        return abs(known * 10**digits - wanted) < 1
    rounded = f"\\lfloor ({value}) \\cdot {10**digits} + \\frac{{1}}{{2}} \\rfloor"
    return same(str(wanted), rounded)


def spellings_of(text: str, *, stored: bool) -> list[str]:
    """The spellings of an answer that may hold several of one value: A or B, A (B); for a stored answer also A = B and A, B."""
    if found := _BRACKETED.fullmatch(text):
        head, tail = found["head"].strip(), found["tail"].strip()
        if found["word"] or (stored and _PLAIN_NUMBER.fullmatch(tail) and not has_names(head)):
            return [head, tail]
    spellings = [one.strip() for one in _ALTERNATIVE.split(text)]
    if 1 < len(spellings) <= 3 and all(spellings):
        return spellings
    if not stored:
        return []
    found_members = [one for _, one in members(text)]
    if found_members and not any(map(has_names, found_members)):
        return found_members
    if len(found_members) > 2 and not any(map(has_names, found_members[1:])):
        return found_members[1:]
    listed = split_top(text, ",")
    if len(listed) == 2 and all(_PLAIN_NUMBER.fullmatch(one) for one in listed) and _equal_numbers(*listed):
        return listed
    return []


def _equal_numbers(one: str, other: str) -> bool:
    x, y = exact(one), exact(other)
    return x is not None and x == y


def same_spellings(spellings: list[str], same: Algebra) -> bool | None:
    """Whether all spellings of a stored answer have one value, decimals being rounded."""
    first = spellings[0]
    return every(_same_or_rounded(first, one, same) for one in spellings[1:])


def _same_or_rounded(one: str, other: str, same: Algebra) -> bool | None:
    x, y = exact(one), exact(other)
    if x is not None and y is not None:
        return x == y or _rounds(x, other) or _rounds(y, one)
    return same(one, other) or same(other, one)


def _rounds(value: Fraction, decimal: str) -> bool:
    return (
        bool(_DECIMAL.fullmatch(decimal)) and "." in decimal and is_rounded(f"{value}", decimal, lambda _x, _y: False) is True
    )
