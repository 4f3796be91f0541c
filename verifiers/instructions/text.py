"""Words, sentences, paragraphs, sections and languages of a text, as rules.py counts them. Linear in the text.

Where IFEval's checkers (arXiv 2311.07911) count with NLTK's trained models, rules of ours count, which give the same result in
every version and on every machine. Known and accepted limits:
  - A sentence ends at . ! ? … and their CJK, Devanagari, Arabic, Urdu and Armenian counterparts, in front of white space but
    not of a lower-case letter; and at a blank line. It does not end after a single initial ("J. Smith"), after a number that
    begins a line ("1. Milk"), or after one of ABBREVIATIONS. A heading without a full stop is a sentence if a blank line
    follows it.
  - Words are runs of letters, digits and underscores, as IFEval counts them: "don't" is two. Chinese, Japanese and Thai are
    written without spaces, so a run of them is one word.
  - The language is the most likely of LANGUAGES by py3langid (a naive Bayes model over bytes, without randomness). A text
    without a letter has none.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

LANGUAGES = {
    "en": "English", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "hi": "Hindi", "fr": "French", "ru": "Russian",
    "de": "German", "ja": "Japanese", "it": "Italian", "bn": "Bengali", "uk": "Ukrainian", "th": "Thai", "ur": "Urdu",
    "ta": "Tamil", "te": "Telugu", "bg": "Bulgarian", "ko": "Korean", "pl": "Polish", "he": "Hebrew", "fa": "Persian",
    "vi": "Vietnamese", "ne": "Nepali", "sw": "Swahili", "kn": "Kannada", "mr": "Marathi", "gu": "Gujarati",
    "pa": "Punjabi", "ml": "Malayalam", "fi": "Finnish", "zh": "Chinese",
}  # fmt: skip
ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "cf", "al", "fig", "no", "vol", "inc", "ltd",
    "co", "approx", "dept", "est", "gen", "gov", "sen", "rep", "u.s", "u.k", "a.m", "p.m",
})  # fmt: skip
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:['\u2019-]\w+)*")
_END = re.compile(r"([.!?\u2026\u061f\u06d4\u0964\u0589]+)[\"'\u201d\u2019)\]*_]*|[\u3002\uff01\uff1f]+")
AROUND = 20  # characters that are looked at on each side of a full stop
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LETTER = re.compile(r"[^\W\d_]")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return _WORD.findall(text)


def capital_words(text: str) -> int:
    """How many words are written in capitals only. "I" and "A" count; "don't" and "well-known" are one word."""
    return sum(token.isupper() for token in _TOKEN.findall(text))


def count_sentences(text: str) -> int:
    """How many sentences hold a letter or a digit."""
    return sum(_count_in_block(block.strip()) for block in _BLANK_LINE.split(text))


def _count_in_block(block: str) -> int:
    count, start = 0, 0
    for match in _END.finditer(block):
        if match.group(1) and not _ends_here(block, match):
            continue
        count += _WORD.search(block, start, match.end()) is not None
        start = match.end()
    return count + (_WORD.search(block, start) is not None)


def _ends_here(block: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends at this mark. Looks at a few characters on each side only."""
    follows = block[match.end() : match.end() + AROUND]
    if follows[:1].strip():
        return False
    following = follows.lstrip()[:1]
    if following.islower():
        return False
    before = block[max(0, match.start() - AROUND) : match.start()]
    if match.group(1) != "." or not following:
        return True
    word = before.split()[-1].lstrip("([\"'\u201c\u2018*_") if before[-1:].strip() else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    is_number_of_item = word.isdigit() and before.rpartition("\n")[2].strip() == word
    return not (word.lower() in ABBREVIATIONS or is_initial or is_number_of_item)


def split_parts(text: str, separator: str) -> list[str] | None:
    """The stripped parts between separators, without an empty one at either end; None if another one is empty."""
    found = [part.strip() for part in text.split(separator)]
    found = found[1:] if found and not found[0] else found
    found = found[:-1] if found and not found[-1] else found
    return found if found and all(found) else None


def first_word(paragraph: str) -> str:
    """The first word in lower case, without quotes before it and punctuation after it."""
    word = paragraph.split(maxsplit=1)[0].lstrip("\"'*_\u201c\u2018") if paragraph.split() else ""
    return re.split(r"[.,?!:;\"'\u201d\u2019*_]", word, maxsplit=1)[0].lower()


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or list and nothing else. A Markdown fence around it is taken off."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) >= 6:
        body = re.sub(r"^```[a-zA-Z]*", "", body[:-3], count=1)
    try:
        return isinstance(json.loads(body, parse_constant=_refuse), dict | list)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def load_languages() -> None:
    """Import the language model, which takes about a second and 100 MB."""
    _identifier()


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file("data/model.npz.xz")
    identifier.set_languages(sorted(LANGUAGES))
    return identifier


def language(text: str) -> str:
    """The code of the most likely of LANGUAGES; "" for a text without a letter."""
    return _identifier().classify(text[:20_000].lower())[0] if _LETTER.search(text) else ""
