r"""Words around an answer that do not change it: "The minimum is 8", "8 (attained at x = 2)", "f(x) = 2x for all x".

Only remarks of known kinds are left out. A remark that names another value, or doubts the first, stays, and the answer is wrong
then: "8 (or 9)", "8 when k = 1, 9 when k = 2", "not 8".
"""

from __future__ import annotations

import re

from .spelling import END, WORD, split_top

MAX_CHARS = 600
_GAP = rf"[ {WORD}{END}]"
_SETS = (
    "real|integer|positive|nonnegative|non-negative|natural|whole|rational|complex|arbitrary|nonzero|non-zero|negative|numbers?|"
    "integers?|reals?|constants?|values?|parameters?|naturals?|of|an|any|a|some|all|is|are|be|being|in|the|every|each|and|with"
)
_NAME = r"(?:[a-zA-Z]|\\[a-z]{2,8})(?:_\{?\w\}?)?"
# possessive, because a word such as "a" is a name as well: without it, hostile text would be tried in all ways
_QUANTIFIED = re.compile(
    rf"(?:for|where|with|over|{_GAP})*+(?:\\forall|{_GAP}|,|\(|\)|\.|(?<![a-zA-Z\\])(?:{_SETS})(?![a-zA-Z])"
    rf"|\\in(?![a-z])|\\mathbb ?\{{?[A-Z]\}}?(?:\^?\{{?[+*]\}}?)?|[><] ?0|\\ge ?0|\\neq ?0|{_NAME}(?![a-zA-Z]))*+"
)
_MEMBERSHIP = rf"{_NAME}(?:,{_GAP}?{_NAME})*{_GAP}*\\in(?![a-z])"
_QUANTIFIER = re.compile(
    rf"[,;(]?{_GAP}*(?:(?<![a-zA-Z\\])(?:for (?:all|any|every|each|some|arbitrary|integers?|real|positive|natural)|where|with)"
    rf"(?![a-zA-Z])|\\forall)|[,;(]{_GAP}*{_MEMBERSHIP}|[,;(]?{_GAP}*for{_GAP}+{_MEMBERSHIP}"
)
_ATTAINED = re.compile(
    rf"[,;]?{_GAP}*(?P<open>\(?){_GAP}*(?:which is |this is |and )?(?P<how>attained|achieved|reached|obtained|occurring|occurs|"
    rf"with equality|equality|at|when|for|where|taken)(?![a-zA-Z])",
)
_AT = re.compile(
    rf"(?:{_GAP}|at|when|for|if|only|iff|and|holds|where|,|the point|the|is|attained|achieved|reached|obtained|equality)*"
)
_RELATION = re.compile(r"[^=<>]{1,40}(?:=|<|>|\\le|\\ge|\\in|\\to)[^,;]{1,80}")
_IN_BRACKETS = re.compile(rf"(?P<value>.{{1,200}}?){_GAP}+\((?P<inside>[^()]{{3,80}})\)", re.DOTALL)
_HEDGE = re.compile(
    r"(?<![a-zA-Z\\])(?:or|either|neither|nor|maybe|perhaps|possibly|probably|alternatively|also|not|never|no|unless|except|but|"
    r"otherwise|wrong|incorrect|false|impossible|if|could|might|should|less|more|least|most|than|about|almost|nearly|isn't|else)"
    r"(?![a-zA-Z])",
    re.IGNORECASE,
)
_CONDITION = re.compile(r"\(?(?:only )?(?:for|when|where)\b.*(?<![\w'])(?![aAI]\b)[a-zA-Z]\b")
_ASIDE = re.compile(rf"{_GAP}*\({_GAP}*(?P<words>[a-zA-Z][a-zA-Z ,.'{WORD}{END}-]*)\){_GAP}*\Z")
_SENTENCE = re.compile(
    rf"(?P<words>{_GAP}*(?=[^=<>:]*[a-zA-Z]{{3}})[^=<>:0-9]{{2,90}}?)(?:(?<![a-zA-Z\\])"
    rf"(?:is equal to|is given by|equals|equal to|is|are|will be|must be)(?![a-zA-Z])|:{_GAP})(?P<value>.+)",
    re.DOTALL,
)
_THERE = re.compile(
    rf"{_GAP}*(?:(?:thus|so|hence|therefore),? )?there (?:are|is)(?: exactly| only| a total of)?(?![a-zA-Z])", re.IGNORECASE
)
_CLOSING = re.compile(
    rf"(?P<value>.{{1,200}}?){_GAP}+(?:is|are){_GAP}+(?:the|our|its) (?P<words>[a-zA-Z {WORD}{END}]{{3,60}})", re.DOTALL
)
_LETTERS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}| \([^()=]{1,40}=|\\forall|\\in(?![a-z])")


def has_words(text: str) -> bool:
    """Whether a text may hold a remark; most answers hold none."""
    return len(text) <= MAX_CHARS and "\\begin" not in text and bool(_LETTERS.search(text))


def hedged(text: str) -> bool:
    """Whether a text doubts itself or names a second value."""
    return bool(_HEDGE.search(text))


def conditional(text: str) -> bool:
    """Whether words behind a value hold it back to some values of a variable: "for even n"."""
    return bool(_CONDITION.match(text))


def without_remark(text: str) -> str:
    """The text without the words around it that do not change it; the text itself where there are none."""
    if not has_words(text):
        return text
    for remove in (_without_quantifier, _without_place, _without_aside, _without_sentence):
        shorter = remove(text)
        if shorter != text and shorter.strip(f" ,;.{WORD}{END}"):
            return shorter.strip(" ,;.")
    return text


def _without_quantifier(text: str) -> str:
    """Without "for all x", "where k is an integer" and k \\in \\mathbb{Z} behind it. Evenness and bounds are no such words."""
    for match in _QUANTIFIER.finditer(text):
        if match.start() > 0 and _QUANTIFIED.fullmatch(text, match.start() + (text[match.start()] in ",;(")):
            return text[: match.start()]
    return text


def _without_place(text: str) -> str:
    """Without the place where an extreme value is attained: (attained at x = 2), when x = y = 1."""
    if (bracketed := _IN_BRACKETS.fullmatch(text)) and not hedged(bracketed["inside"]):
        pieces = split_top(bracketed["inside"])
        if all(_RELATION.fullmatch(one) and not one[0].isdigit() for one in pieces):
            return bracketed["value"]
    match = _ATTAINED.search(text)
    if not match or match.start() == 0:
        return text
    tail = text[match.end() :].strip(f" .{WORD}{END}")
    if match["open"]:
        if not tail.endswith(")"):
            return text
        tail = tail[:-1]
    tail = tail[lead.end() :] if (lead := _AT.match(tail)) else tail
    pieces = [one for one in split_top(tail.replace(" and ", ", ").replace(WORD, " ").replace(END, " ")) if one]
    point = len(pieces) == 1 and re.fullmatch(r"\([^()]{1,60}\)", pieces[0])
    sound = pieces and not hedged(tail) and (point or all(_RELATION.fullmatch(one) and not one[0].isdigit() for one in pieces))
    return text[: match.start()] if sound else text


def _without_aside(text: str) -> str:
    """Without words in brackets at the end: 8 (by symmetry)."""
    match = _ASIDE.search(text)
    if not match or match.start() == 0 or len(match["words"].strip(f" {WORD}{END}")) < 4:
        return text
    if hedged(match["words"]) or conditional(match["words"]):
        return text
    return text[: match.start()]


def _without_sentence(text: str) -> str:
    """The value of a sentence that states it."""
    if match := _THERE.match(text):
        return text[match.end() :]
    match = _SENTENCE.fullmatch(text)
    if (
        match
        and not hedged(match["words"])
        and "\\{" not in match["words"]
        and match["words"].count("(") == match["words"].count(")")
    ):
        return match["value"]
    match = _CLOSING.fullmatch(text)
    return match["value"] if match and not hedged(match["words"]) and any(map(str.isdigit, match["value"])) else text
