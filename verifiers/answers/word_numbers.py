"""Numbers in words: zero, twenty-five, one hundred and five, two thirds, half."""

from __future__ import annotations

import re
from fractions import Fraction

_UNDER_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_SMALL = {word: value for value, word in enumerate(_UNDER_TWENTY.split())}
_TENS = {
    word: 10 * value
    for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "hundredth": 100,
}  # fmt: skip
_ORDER = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = {word: value for value, word in enumerate(_ORDER.split(), 1)}
MAX_WORDS = 8


def word_number(text: str) -> Fraction | None:
    """The value of a number in words; None for anything else."""
    words = re.findall(r"[a-z]+", text.lower())
    if not 0 < len(words) <= MAX_WORDS or not re.fullmatch(r"[A-Za-z\s-]+", text.strip()):
        return None
    sign, words = (-1, words[1:]) if words[0] in ("minus", "negative") else (1, words)
    if len(words) > 1 and (parts := _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))):
        top = Fraction(1) if words[:-1] in (["a"], ["an"]) else _whole(words[:-1])
        return None if top is None else sign * top / parts
    if words in (["half"], ["nought"], ["nil"]):
        return sign * (Fraction(1, 2) if words == ["half"] else Fraction(0))
    value = _whole(words)
    return None if value is None else sign * value


def _whole(words: list[str]) -> Fraction | None:
    """One hundred and five as 105; None where the words do not follow each other as in a number."""
    total, group, last = 0, 0, 10**12
    for at, word in enumerate(words):
        if word == "and" and 0 < at < len(words) - 1 and words[at - 1] in _SCALES:
            continue
        if word in _SCALES and (group or total):
            if word == "hundred":
                if not 0 < group < 10:
                    return None
                group, last = group * 100, 100
            else:
                total, group, last = total + group * _SCALES[word], 0, 10**12
            continue
        value = _SMALL.get(word, _TENS.get(word))
        # after twenty only one to nine may follow, after a hundred only less than that
        size = 1 if word in _SMALL else 10
        if value is None or size >= last or (last == 10 and not 0 < value < 10):
            return None
        group, last = group + value, size
    return Fraction(total + group) if words else None
