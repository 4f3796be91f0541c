"""From the constraints of RLVR-IFeval to instructions: {"func_name": ..., "N": ...} names a function instead of an id."""

from __future__ import annotations

import re

from ...common.errors import DataError
from ...common.json_object import JsonObject
from ..answers.literals import parsed_literal

# by function: the id, kwargs by the name that the constraint has for them, and kwargs that the function's meaning adds
FUNC_NAMES: dict[str, tuple[str, dict[str, str], JsonObject]] = {
    "verify_keywords": ("keywords:existence", {"keyword_list": "keywords"}, {}),
    "verify_keyword_frequency": ("keywords:frequency", {"word": "keyword", "N": "frequency"}, {"relation": "exactly"}),
    "validate_forbidden_words": ("keywords:forbidden_words", {"forbidden_words": "forbidden_words"}, {}),
    "verify_letter_frequency": (
        "keywords:letter_frequency",
        {"letter": "letter", "N": "let_frequency"},
        {"let_relation": "exactly"},
    ),
    "validate_response_language": ("language:response_language", {"language": "language"}, {}),
    "verify_paragraph_count": ("length_constraints:number_paragraphs", {"N": "num_paragraphs"}, {}),
    "validate_word_constraint": ("length_constraints:number_words", {"N": "num_words", "quantifier": "relation"}, {}),
    "verify_sentence_constraint": (
        "length_constraints:number_sentences",
        {"N": "num_sentences", "quantifier": "relation"},
        {},
    ),
    "validate_paragraphs": (
        "length_constraints:nth_paragraph_first_word",
        {"N": "num_paragraphs", "i": "nth_paragraph", "first_word": "first_word"},
        {},
    ),
    "verify_postscript": ("detectable_content:postscript", {"postscript_marker": "postscript_marker"}, {}),
    "validate_placeholders": ("detectable_content:number_placeholders", {"N": "num_placeholders"}, {}),
    "verify_bullet_points": ("detectable_format:number_bullet_lists", {"N": "num_bullets"}, {}),
    "validate_title": ("detectable_format:title", {}, {}),
    "validate_choice": ("detectable_format:constrained_response", {"options": "options"}, {}),
    "validate_highlighted_sections": ("detectable_format:number_highlighted_sections", {"N": "num_highlights"}, {}),
    "validate_sections": (
        "detectable_format:multiple_sections",
        {"N": "num_sections", "section_splitter": "section_spliter"},
        {},
    ),
    "validate_json_format": ("detectable_format:json_format", {}, {}),
    "validate_repeat_prompt": ("combination:repeat_prompt", {"original_prompt": "prompt_to_repeat"}, {}),
    "validate_two_responses": ("combination:two_responses", {}, {}),
    "validate_uppercase": ("change_case:english_capital", {}, {}),
    "validate_lowercase": ("change_case:english_lowercase", {}, {}),
    "validate_frequency_capital_words": (
        "change_case:capital_word_frequency",
        {"N": "capital_frequency", "quantifier": "capital_relation"},
        {},
    ),
    "validate_end": ("startend:end_checker", {"end_phrase": "end_phrase"}, {}),
    "validate_quotation": ("startend:quotation", {}, {}),
    "validate_no_commas": ("punctuation:no_comma", {}, {}),
}


def split_options(options: str) -> list[str]:
    """The choices of "yes/no/maybe", "I know or I don't know" and "a), b), c)"."""
    separator = "/" if "/" in options else r",(?:\s*or\s)?|\sor\s"
    return [option.strip() for option in re.split(separator, options) if option.strip()]


def from_func_name(constraint: object) -> JsonObject:
    """The instruction {"id", "kwargs"} of one constraint {"func_name", ARGUMENT: value or null, ...}, also given as a text.

    Raises DataError for a function that is not known, or a constraint without one of its arguments.
    """
    found = parsed_literal(constraint) if isinstance(constraint, str) else constraint
    name = found.get("func_name") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(name, str) or name not in FUNC_NAMES:
        expected = f"an object with func_name, one of {', '.join(FUNC_NAMES)}"
        raise DataError(f"constraint {constraint!r:.200}: expected {expected}")
    instruction, arguments, added = FUNC_NAMES[name]
    missing = [argument for argument in arguments if found.get(argument) is None]
    if missing:
        raise DataError(f"constraint {name} has no {', '.join(missing)}")
    kwargs = {key: found[argument] for argument, key in arguments.items()} | added
    if isinstance(kwargs.get("options"), str) and not kwargs["options"].strip().startswith("["):
        kwargs["options"] = split_options(kwargs["options"])
    return {"id": instruction, "kwargs": kwargs}
