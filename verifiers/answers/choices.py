"""The letters that an answer to a multiple-choice question names: B, (B), `B. Oxygen`, `A and C`; hedges name none.

`(A) or (B)`, `A/B` and `A. 5 m/s or B. 7 m/s` do not decide, so they are no answer. `D. Both (A) and (B)` decides: what stands
behind a label is the text of that choice unless it goes on with another label.
"""

from __future__ import annotations

import re

from .spelling import plain, tidy, unwrap

MAX_LIST_CHARS = 60
_LABEL = r"(?:\([A-J]\)|[A-J][.):])"
_ONE = r"\(?[A-J]\)?"
_LIST = re.compile(rf"{_ONE}(?:(?:\s*(?:,|;|&|\band\b)\s*|\s*)(?:and\s*)?{_ONE}){{0,9}}[.):]?")
# B, (B), or A and C: how stored answers write choices
_STORED = re.compile(r"\(?[A-J]\)?(?:(?: ?[,;] ?| ?& ?| and |, and )\(?[A-J]\)?){0,9}")
_FIRST = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])\s*(?!\d)|(?:\(([A-J])\)|([A-J])[.):])\s+")
_OPTION = re.compile(
    r"(?:both |(?:the )?(?:final |correct |right |best )?(?:option|choice|answer)s?\s*(?:is|are|:)?\s*)", re.IGNORECASE
)
_JOINED = r"(?i:or|and|/|\||,|;|&|\+|but|maybe|perhaps|possibly|otherwise|else|then|alternatively|versus|vs\.?|=|\\to|->)"
_HEDGE = re.compile(rf"{_ONE}(?:\s*(?:{_JOINED}\s*)+{_ONE}){{1,9}}[.)?]?")
_GOES_ON = re.compile(  # another choice directly behind a label
    rf"(?:{_JOINED}\s*)*{_LABEL}(?!\w)|(?:{_JOINED}\s*)+[A-J](?:\s*[.,;:)?!]|\s*$|\s+{_JOINED}\s)"
)
_LATER = re.compile(  # another choice further on
    rf"(?:\b(?:or|and|maybe|perhaps|possibly)\b|/|;|,)\s*(?:\w+\s+)?{_LABEL}(?!\w)|(?<![\w(])(?:\([A-J]\)|[A-J][):])(?!\w)|[.;,]\s+[A-J]\.(?!\w)"
)
_SPANNING = re.compile(r"(?:both|neither|either|all|none|any|only|options?|choices?|statements?)\b", re.IGNORECASE)
_SENTENCE = r"is (?:the )?(?:correct|right)(?: answer| choice| option| one)?"
_REMARK = r"\((?!.*\b(?:or|and|not|[A-J])\b)[^()]+\)"
_EXPLAINED = re.compile(rf"\(?([A-J])\)? (?:{_SENTENCE}|{_REMARK})\.?")  # C is the correct answer; C (the third option)
_COMBINED = re.compile(r"\(?[A-J]\)?(?:(?:,? and |, | & )\(?[A-J]\)?)+(?: only)?\.?")  # the text of "D. (A) and (C) only"


def names_choices(text: str) -> bool:
    """Whether a stored answer is the letter of a choice, or a list of letters."""
    return _STORED.fullmatch(plain(unwrap(tidy(text)))) is not None


def letters(text: str) -> frozenset[str] | None:
    """The choices that a text names; empty for a hedge between several, None if it names none."""
    text = plain(unwrap(tidy(text)))
    text = text[match.end() :].strip() if (match := _OPTION.match(text)) else text
    if len(text) <= 3 and re.fullmatch(r"\(?[a-j]\)?[.:]?", text):
        text = text.upper()
    if len(text) <= MAX_LIST_CHARS and _LIST.fullmatch(text):
        named = re.findall(r"[A-J]", text)
        # BB names nothing
        return frozenset(named) if len(set(named)) == len(named) else frozenset()
    if len(text) <= MAX_LIST_CHARS and (match := _EXPLAINED.fullmatch(text)):
        return frozenset(match[1])
    if match := _FIRST.match(text):
        named = next(filter(None, match.groups()))
        rest = text[match.end() :]
        return frozenset() if _is_hedged(named, rest) else frozenset(named)
    return frozenset() if len(text) <= MAX_LIST_CHARS and _HEDGE.fullmatch(text) else None


def _is_hedged(named: str, rest: str) -> bool:
    """Whether the text behind the label `named` goes on with another label."""
    if _SPANNING.match(rest) or (_COMBINED.fullmatch(rest) and named not in re.findall(r"[A-J]", rest)):
        return False
    return _GOES_ON.match(rest) is not None or _LATER.search(rest) is not None
