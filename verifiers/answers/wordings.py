"""Answers in words: one form for a phrase, letters of choices, orders of letters, yes and no."""

from __future__ import annotations

import re

from .spelling import clean, plain, tidy, unwrap

_CHOICE = re.compile(r"\(([A-J])\)(?!\w)|([A-J])(?:[.):](?!\d)|$)")
_OTHER_CHOICE = re.compile(
    r"\([A-J]\)|(?<![\w\\])[A-J](?:[.):](?!\d)|$)|(?:,|/|;|&|\bor|\band) ?\(?[A-J]\b|^ ?[A-J]\b(?![ ]?[a-z=])"
)
_CAPITAL = re.compile(r"(?<!\\)[A-J]")
_LETTER = re.compile(r"\(?([A-J])\)?")
_ARTICLE = re.compile(r"^(?:the|a|an) ", re.IGNORECASE)
_PHRASE = re.compile(r"(?=.*[^\W\d_]{3}|no\b)[^\W\d_][\w\s'.,()!-]*", re.IGNORECASE | re.DOTALL)
_HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
GENES = re.compile(r"(?:([A-Za-z])(?i:\1))+")  # Rr is not rr
_LOOSE = re.compile(r"[^\w+\-\\{}()<>=/^,!%|:*]+")
_ORDER = re.compile(r"[A-Z]{3,26}")
_WORD_OF_LETTERS = re.compile(r"[a-zA-Z]{2,26}")
_SEPARATED = re.compile(r"[A-Z](?: ?(?:,|-|;|\\to|\\Rightarrow) ?[A-Z]){2,25}|[A-Z](?: [A-Z]){2,25}")
_UNDECIDED = re.compile(r"\b(?:yes|no|true|false|maybe|perhaps|or|but|unless|if|either|neither)\b")
SYNONYMS = {
    "no solution": "\\emptyset",
    "no solutions": "\\emptyset",
    "no real solution": "\\emptyset",
    "no real solutions": "\\emptyset",
    "there is no solution": "\\emptyset",
    "there are no solutions": "\\emptyset",
    "none": "\\emptyset",
    "empty set": "\\emptyset",
    "\\{\\}": "\\emptyset",
    "does not exist": "dne",
    "limit does not exist": "dne",
    "doesnt exist": "dne",
    "all real numbers": "\\mathbb{R}",
    "all reals": "\\mathbb{R}",
    "all real x": "\\mathbb{R}",
    "real numbers": "\\mathbb{R}",
    "\\mathbb{r}": "\\mathbb{R}",
    "(-\\infty, \\infty)": "\\mathbb{R}",
    "(-\\infty,\\infty)": "\\mathbb{R}",
    "(-\\infty, +\\infty)": "\\mathbb{R}",
    "(-\\infty,+\\infty)": "\\mathbb{R}",
    "positive infinity": "\\infty",
    "positive \\infty": "\\infty",
    "infinity": "\\infty",
    "+\\infty": "\\infty",
    "negative infinity": "-\\infty",
    "minus infinity": "-\\infty",
    "negative \\infty": "-\\infty",
    "minus \\infty": "-\\infty",
    "true": "yes",
    "false": "no",
}


def normal_words(text: str) -> str:
    """A phrase in the form in which it is compared: small letters, single spaces, no article, hyphens and punctuation.

    Symbols keep their case: R - r is not r - R.
    """
    text = _ARTICLE.sub("", _LOOSE.sub(" ", _HYPHEN.sub(" ", text.replace("'", ""))).strip())
    return _LETTERS.sub(lambda match: match[0] if GENES.fullmatch(match[0]) else match[0].lower(), text)


def phrase_form(text: str) -> str:
    """A phrase in normal words, a symbol as it is, and one spelling for a thing of several names."""
    flat = normal_words(text)
    if synonym := SYNONYMS.get(flat.lower()):
        return synonym
    return flat if _PHRASE.fullmatch(text) else text


def same_letter(reference: str, answer: str) -> bool | None:
    """Compare (B), B., `\\textbf{(B)} 12` with the stored letter B. An answer that names another letter as well is wrong."""
    wanted = _LETTER.fullmatch(clean(reference)) if len(reference) < 40 and _CAPITAL.search(reference) else None
    text = plain(unwrap(tidy(answer))) if wanted else ""
    found = _CHOICE.match(text) if wanted else None
    if not wanted or not found:
        return None
    return wanted[1] == (found[1] or found[2]) and not _OTHER_CHOICE.search(text, found.end())


def same_letters(reference: str, answer: str, *, words: bool) -> bool | None:
    """Compare BCA with ABC as the orders that they are, no products; None where one of them is something else.

    words: the stored answer stood in \\text{}, so that two letters, or small ones, are an order as well.
    """
    order = _WORD_OF_LETTERS if words else _ORDER
    if not order.fullmatch(reference) or not (_WORD_OF_LETTERS.fullmatch(answer) or _SEPARATED.fullmatch(answer)):
        return None
    letters = answer if answer.isalpha() else "".join(char for char in answer if char.isupper())
    if letters == reference:
        return True
    return False if sorted(letters) == sorted(reference) else None


def says_yes_or_no(expected: str, found: str) -> bool:
    """Whether a phrase such as `yes it converges` begins with the stored yes or no, and says nothing else of the kind."""
    rest = found.removeprefix(expected)
    return expected in ("yes", "no") and rest != found and rest[:1] in (" ", ",", ":") and not _UNDECIDED.search(rest)
