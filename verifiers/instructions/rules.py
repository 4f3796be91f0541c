"""The 25 verifiable instruction types of IFEval (arXiv 2311.07911, table 1), one rule each.

A rule gets the text behind the thinking, stripped and never empty, and the instruction's kwargs by their published names. The
published checkers let emptiness, errors and accidents pass (a failed language detection, a bare number as JSON, a keyword read
as a regular expression); these rules do not, and otherwise mean the same. Every rule is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...common.json_object import JsonObject
from .text import LANGUAGES, capital_words, count_sentences, first_word, is_json, language, split_parts, words

Kwarg = tuple[Callable[[Any], bool], str]  # (whether a value is valid, description of valid values)
RELATIONS = ("less than", "at least")
NEEDS_LANGUAGE = frozenset({"language:response_language", "change_case:english_capital", "change_case:english_lowercase"})
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
_HIGHLIGHT = re.compile(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*")
_COMMA = re.compile("[,\uff0c\u060c\u3001]")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    """A whole number from 0; parquet files hold some as 3.0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 10**6 and value == int(value)


COUNT: Kwarg = (_is_count, "a whole number")
TEXT: Kwarg = (_is_text, "a text")
TEXTS: Kwarg = (_is_texts, "a list of texts")
RELATION: Kwarg = (lambda value: value in RELATIONS, " or ".join(map(repr, RELATIONS)))
LANGUAGE: Kwarg = (lambda value: value in LANGUAGES, f"one of {', '.join(LANGUAGES)}")
LETTER: Kwarg = (lambda value: _is_text(value) and len(value.strip()) == 1, "one character")


@dataclass(frozen=True)
class InstructionRule:
    """One instruction type."""

    follows: Callable[[str, Any], bool]  # of (text, kwargs)
    kwargs: dict[str, Kwarg]  # by name
    # the reason why no text can follow these kwargs, or ""
    impossible: Callable[[JsonObject], str] = lambda kwargs: ""


def _compare(count: int, relation: str, limit: float) -> bool:
    return count < limit if relation == "less than" else count >= limit


def _never_less(count: str, relation: str, least: int, what: str) -> Callable[[JsonObject], str]:
    """`impossible` of a rule that asks for fewer than every text has."""
    return lambda k: f"every text has {what}" if k[relation] == "less than" and k[count] <= least else ""


def _existence(text: str, k: JsonObject) -> bool:
    folded = text.casefold()
    return all(keyword.strip().casefold() in folded for keyword in k["keywords"])


def _frequency(text: str, k: JsonObject) -> bool:
    return _compare(text.casefold().count(k["keyword"].strip().casefold()), k["relation"], k["frequency"])


def _forbidden(text: str, k: JsonObject) -> bool:
    patterns = (rf"(?<!\w){re.escape(word.strip())}(?!\w)" for word in k["forbidden_words"])
    return not any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def _letter_frequency(text: str, k: JsonObject) -> bool:
    return _compare(text.lower().count(k["letter"].strip().lower()), k["let_relation"], k["let_frequency"])


def _paragraphs(text: str, k: JsonObject) -> bool:
    found = split_parts(text, "***")
    return found is not None and len(found) == k["num_paragraphs"]


def _nth_paragraph(text: str, k: JsonObject) -> bool:
    found = [part for part in text.split("\n\n") if part.strip()]
    if len(found) != k["num_paragraphs"]:
        return False
    return first_word(found[int(k["nth_paragraph"]) - 1]) == k["first_word"].strip().lower()


def _nth_impossible(k: JsonObject) -> str:
    if not 1 <= k["nth_paragraph"] <= k["num_paragraphs"]:
        return f"there is no paragraph {k['nth_paragraph']} of {k['num_paragraphs']}"
    return "" if first_word(k["first_word"]) == k["first_word"].strip().lower() else "first_word is not one word"


def _postscript(text: str, k: JsonObject) -> bool:
    """The marker begins a line or a word, perhaps in bold, with or without spaces in it, and text follows it."""
    marker = r"\s?".join(re.escape(character) for character in k["postscript_marker"].strip() if not character.isspace())
    return re.search(rf"(?<![^\s*_]){marker}[:\s*_]*[^:\s*_]", text, re.IGNORECASE) is not None


def _bullets(text: str, k: JsonObject) -> bool:
    lines = [line.lstrip() for line in text.splitlines()]
    starred = sum(len(line) > 1 and line[0] == "*" and line[1] != "*" for line in lines)
    return starred + sum(line.startswith("-") and line.strip("- ") != "" for line in lines) == k["num_bullets"]


def _highlights(text: str, k: JsonObject) -> bool:
    found = (match.strip("*").strip() for match in _HIGHLIGHT.findall(text))
    return sum(map(bool, found)) >= k["num_highlights"]


def _sections(text: str, k: JsonObject) -> bool:
    splitter = re.escape(k["section_spliter"].strip())
    return len(re.findall(rf"(?<!\w){splitter}\s?\d+", text)) >= k["num_sections"]


def _title(text: str, k: JsonObject) -> bool:
    for line in text.splitlines():
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> \t"):
            return True
    return False


def _two_responses(text: str, k: JsonObject) -> bool:
    found = split_parts(text, "******")
    return found is not None and len(found) == 2 and found[0] != found[1]


def _repeat_prompt(text: str, k: JsonObject) -> bool:
    wanted = k["prompt_to_repeat"].strip().casefold()
    return text.casefold().startswith(wanted) and len(text) > len(wanted)


def _end(text: str, k: JsonObject) -> bool:
    return text.strip("\"' ").casefold().endswith(k["end_phrase"].strip().strip("\"'").casefold())


def _quotation(text: str, k: JsonObject) -> bool:
    return len(text) > 2 and text[0] == '"' and text[-1] == '"'


def _counted(key: str) -> Callable[[JsonObject], str]:
    """`impossible` of a rule that asks for 0 parts of a kind that every text has."""
    return lambda k: f"every text has one, and {key} is 0" if k[key] < 1 else ""


RULES: dict[str, InstructionRule] = {
    "keywords:existence": InstructionRule(_existence, {"keywords": TEXTS}),
    "keywords:frequency": InstructionRule(
        _frequency,
        {"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
        _never_less("frequency", "relation", 0, "0 of it or more"),
    ),
    "keywords:forbidden_words": InstructionRule(_forbidden, {"forbidden_words": TEXTS}),
    "keywords:letter_frequency": InstructionRule(
        _letter_frequency,
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
        _never_less("let_frequency", "let_relation", 0, "0 of it or more"),
    ),
    "language:response_language": InstructionRule(lambda text, k: language(text) == k["language"], {"language": LANGUAGE}),
    "length_constraints:number_sentences": InstructionRule(
        lambda text, k: _compare(count_sentences(text), k["relation"], k["num_sentences"]),
        {"num_sentences": COUNT, "relation": RELATION},
        _never_less("num_sentences", "relation", 1, "a sentence"),
    ),
    "length_constraints:number_paragraphs": InstructionRule(_paragraphs, {"num_paragraphs": COUNT}, _counted("num_paragraphs")),
    "length_constraints:number_words": InstructionRule(
        lambda text, k: _compare(len(words(text)), k["relation"], k["num_words"]),
        {"num_words": COUNT, "relation": RELATION},
        _never_less("num_words", "relation", 1, "a word"),
    ),
    "length_constraints:nth_paragraph_first_word": InstructionRule(
        _nth_paragraph, {"num_paragraphs": COUNT, "nth_paragraph": COUNT, "first_word": TEXT}, _nth_impossible
    ),
    "detectable_content:number_placeholders": InstructionRule(
        lambda text, k: len(_PLACEHOLDER.findall(text)) >= k["num_placeholders"], {"num_placeholders": COUNT}
    ),
    "detectable_content:postscript": InstructionRule(_postscript, {"postscript_marker": TEXT}),
    "detectable_format:number_bullet_lists": InstructionRule(_bullets, {"num_bullets": COUNT}),
    "detectable_format:constrained_response": InstructionRule(
        lambda text, k: any(answer in text for answer in CONSTRAINED), {}
    ),
    "detectable_format:number_highlighted_sections": InstructionRule(_highlights, {"num_highlights": COUNT}),
    "detectable_format:multiple_sections": InstructionRule(_sections, {"section_spliter": TEXT, "num_sections": COUNT}),
    "detectable_format:json_format": InstructionRule(lambda text, k: is_json(text), {}),
    "detectable_format:title": InstructionRule(_title, {}),
    "combination:two_responses": InstructionRule(_two_responses, {}),
    "combination:repeat_prompt": InstructionRule(_repeat_prompt, {"prompt_to_repeat": TEXT}),
    "startend:end_checker": InstructionRule(_end, {"end_phrase": TEXT}),
    "startend:quotation": InstructionRule(_quotation, {}),
    "change_case:capital_word_frequency": InstructionRule(
        lambda text, k: _compare(capital_words(text), k["capital_relation"], k["capital_frequency"]),
        {"capital_frequency": COUNT, "capital_relation": RELATION},
        _never_less("capital_frequency", "capital_relation", 0, "0 of them or more"),
    ),
    "change_case:english_capital": InstructionRule(lambda text, k: text.isupper() and language(text) == "en", {}),
    "change_case:english_lowercase": InstructionRule(lambda text, k: text.islower() and language(text) == "en", {}),
    "punctuation:no_comma": InstructionRule(lambda text, k: _COMMA.search(text) is None, {}),
}
