"""Words, sentences, paragraphs, sections and languages of a text, as rules.py counts them. Linear in the text.

Where IFEval's checkers (arXiv 2311.07911) count with NLTK's trained models, rules of ours count, which give the same result in
every version and on every machine. Known and accepted limits:
  - A sentence ends at . ! ? … and their CJK, Devanagari, Arabic, Urdu and Armenian counterparts, in front of white space but
    not of a lower-case letter; and at a blank line. It does not end after a single initial ("J. Smith"), after a number that
    begins a line ("1. Milk"), or after one of ABBREVIATIONS. A heading without a full stop is a sentence if a blank line
    follows it.
  - Words are runs of letters, digits and underscores, as IFEval counts them: "don't" is two. Chinese, Japanese and Thai are
    written without spaces, so a run of them is one word. Where a rule of another set says so, words are tokens: "don't" and
    "well-known" are one.
  - The language is the most likely of LANGUAGES by py3langid (a naive Bayes model over bytes, without randomness), code
    blocks left out. A text without a letter has none. A text of a few words may have several.
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
LANGUAGE_CHARS = 20_000
SHORT_CHARS, SHORT_MARGIN = 20, 3.0  # of so short a text the model cannot tell languages that are this near (log-likelihood)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LETTER = re.compile(r"[^\W\d_]")
_FENCED = re.compile(r"```[\s\S]*?(?:```|\Z)")
_BOLD_ITALIC = re.compile(r"(?<!\*)\*\*\*(?=[^\s*])[^\n*]*[^\s*]\*\*\*(?!\*)")
_DIVIDER = re.compile(r"\*\*\*|(?<!\S)\*[ \t]\*[ \t]\*(?!\S)")
# Chinese, Japanese and Thai are written without spaces, so a word of them has no edges
_NO_SPACES = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return _WORD.findall(text)


def capital_words(text: str) -> int:
    """How many words are written in capitals only. "I" and "A" count; "don't" and "well-known" are one word."""
    return sum(token.isupper() for token in _TOKEN.findall(text))


def word_tokens(text: str) -> list[str]:
    """Words with their inner apostrophes and hyphens: "don't" and "well-known" are one each."""
    return _TOKEN.findall(text)


def split_sentences(text: str) -> list[str]:
    """The sentences that hold a letter or a digit, with their marks at the end."""
    return [sentence for block in _BLANK_LINE.split(text) for sentence in _split_block(block.strip())]


def count_sentences(text: str) -> int:
    """How many sentences hold a letter or a digit."""
    return len(split_sentences(text))


def _split_block(block: str) -> list[str]:
    found, start = [], 0
    for match in _END.finditer(block):
        if match.group(1) and not _ends_here(block, match):
            continue
        found.append(block[start : match.end()].strip())
        start = match.end()
    found.append(block[start:].strip())
    return [sentence for sentence in found if _WORD.search(sentence)]


def _ends_here(block: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends at this mark. Looks at a few characters on each side only."""
    follows = block[match.end() : match.end() + AROUND]
    if follows[:1].strip():
        return False
    following = follows.lstrip()[:1]
    return not following.islower() and not (match.group(1) == "." and is_inner_stop(block, match.start(), following))


def is_inner_stop(text: str, at: int, following: str) -> bool:
    """Whether the full stop at `at` belongs to an initial, an abbreviation or the number of an item, and ends no sentence.

    following: the next character that is no white space, or "".
    """
    if not following:
        return False
    before = text[max(0, at - AROUND) : at]
    word = before.split()[-1].lstrip("([\"'\u201c\u2018*_") if before[-1:].strip() else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    is_number_of_item = word.isdigit() and before.rpartition("\n")[2].strip() == word
    # "No." is an answer as well as a number's name
    is_abbreviation = word.lower() in ABBREVIATIONS and (word.lower() != "no" or following.isdigit())
    return is_abbreviation or is_initial or is_number_of_item


def split_parts(text: str, separator: str) -> list[str] | None:
    """The stripped parts between separators, without an empty one at either end; None if another one is empty."""
    found = [part.strip() for part in text.split(separator)]
    found = found[1:] if found and not found[0] else found
    found = found[:-1] if found and not found[-1] else found
    return found if found and all(found) else None


def split_divided(text: str) -> list[str] | None:
    """The parts between the dividers *** and * * *, as `split_parts`. Text in bold italics (***so***) holds no divider."""
    return split_parts(_DIVIDER.sub("***", _BOLD_ITALIC.sub("x", text)), "***")


def split_blocks(text: str) -> list[str]:
    """The stripped parts between blank lines, also between lines that hold white space only."""
    return [part.strip() for part in _BLANK_LINE.split(text) if part.strip()]


def first_word(paragraph: str) -> str:
    """The first word in lower case, without the marks around it; "" where there is none."""
    match = _TOKEN.search(paragraph)
    return match.group().lower() if match else ""


def last_word(sentence: str) -> str:
    """The last word in lower case, without the marks around it; "" where there is none."""
    for part in reversed(sentence.rsplit(maxsplit=8)):
        if found := _TOKEN.findall(part):
            return found[-1].lower()
    return ""


def count_keyword(text: str, keyword: str, *, plural: bool = False) -> int:
    """How often a word or phrase occurs as a whole, whatever its case; with its regular plural if asked for."""
    keyword = keyword.strip()
    pattern = r"\s+".join(map(re.escape, keyword.split()))
    before = "" if _NO_SPACES.match(keyword[0]) else r"(?<!\w)"
    after = "" if _NO_SPACES.match(keyword[-1]) else r"(?!\w)"
    suffix = "(?:e?s)?" if plural and len(keyword) > 2 and keyword[-1].isalpha() and after else ""
    return sum(1 for _ in re.finditer(f"{before}{pattern}{suffix}{after}", text, re.IGNORECASE))


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or list and nothing else. A Markdown fence around it is taken off."""
    body = text.strip()
    if len(body) >= 6 and body[:3] == body[-3:] and body[:3] in ("```", "~~~"):
        body = re.sub(r"^ ?[a-zA-Z]*", "", body[3:-3], count=1)
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


def languages_of(text: str) -> list[str]:
    """The code of the most likely of LANGUAGES, and those as likely if the text is short; none for a text without a letter."""
    text = _FENCED.sub(" ", text).strip() or text
    text = text[:LANGUAGE_CHARS].lower()
    if not _LETTER.search(text):
        return []
    ranked = _identifier().rank(text)
    margin = SHORT_MARGIN if len(text) < SHORT_CHARS else 0.0
    return [code for code, score in ranked if score >= ranked[0][1] - margin]
