"""The 25 verifiable instruction types of IFEval (arXiv 2311.07911, table 1), one rule each.

The published checkers let emptiness, errors and accidents pass (a failed language detection, a bare number as JSON, a keyword
read as a regular expression); these rules do not, and otherwise mean the same. Three pay less than IFEval's unless the answer
says "strict": false: a keyword inside other words is no keyword, more than one of the constrained responses is none, and ***
around words in bold italics divides no paragraphs. Every rule is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...common.json_object import JsonObject
from .rule import COUNT, LETTER, RELATION, TEXT, TEXTS, InstructionRule, Kwarg, compare, never_less
from .text import (
    LANGUAGES,
    capital_words,
    count_keyword,
    count_sentences,
    first_word,
    is_json,
    languages_of,
    split_blocks,
    split_divided,
    split_parts,
    words,
)

CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
QUOTES = ('""', "\u201c\u201d", "\u201e\u201c", "\u201e\u201d", "\u201d\u201d", "\uff02\uff02", "\u00ab\u00bb", "\u00bb\u00ab")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\]")
_HIGHLIGHT = re.compile(r"\*\*(?=\S)[^\n*]+(?<=\S)\*\*|\*(?=\S)[^\n*]+(?<=\S)\*")
_COMMA = re.compile("[,\uff0c\u060c\u3001]")
_RULE_CHARS = "*-+_ \t"
_ALIASES = {"zh-cn": "zh", "zh-tw": "zh", "zh-hans": "zh", "zh-hant": "zh", "pt-br": "pt", "iw": "he"}


def _language(value: object) -> str | None:
    folded = value.strip().lower() if isinstance(value, str) else ""
    folded = _ALIASES.get(folded, folded)
    return folded if folded in LANGUAGES else None


LANGUAGE = Kwarg(_language, f"one of {', '.join(LANGUAGES)}")


def _existence(text: str, k: JsonObject) -> bool:
    return all(count_keyword(text, keyword, plural=True) for keyword in k["keywords"])


def _existence_inside(text: str, k: JsonObject) -> bool:
    folded = text.casefold()
    return all(keyword.strip().casefold() in folded for keyword in k["keywords"])


def _frequency(text: str, k: JsonObject) -> bool:
    plural = k["relation"] != "exactly"
    return compare(count_keyword(text, k["keyword"], plural=plural), k["relation"], k["frequency"])


def _frequency_inside(text: str, k: JsonObject) -> bool:
    return compare(text.casefold().count(k["keyword"].strip().casefold()), k["relation"], k["frequency"])


def lacks_words(text: str, forbidden: list[str]) -> bool:
    """Whether none of these words occurs as a whole."""
    return not any(count_keyword(text, word) for word in forbidden)


def _letter_frequency(text: str, k: JsonObject) -> bool:
    return compare(text.lower().count(k["letter"].strip().lower()), k["let_relation"], k["let_frequency"])


def _paragraphs(text: str, k: JsonObject) -> bool:
    found = split_divided(text)
    return found is not None and len(found) == k["num_paragraphs"]


def _paragraphs_anywhere(text: str, k: JsonObject) -> bool:
    found = split_parts(text, "***")
    return found is not None and len(found) == k["num_paragraphs"]


def _nth_paragraph(text: str, k: JsonObject) -> bool:
    found, wanted = split_blocks(text), first_word(k["first_word"])
    if len(found) != k["num_paragraphs"]:
        return False
    word = first_word(found[k["nth_paragraph"] - 1])
    return wanted in (word, word.replace("\u2019", "'").partition("'")[0])


def _nth_impossible(k: JsonObject) -> str:
    if not 1 <= k["nth_paragraph"] <= k["num_paragraphs"]:
        return f"there is no paragraph {k['nth_paragraph']} of {k['num_paragraphs']}"
    return "" if len(k["first_word"].split()) == 1 and first_word(k["first_word"]) else "first_word is not one word"


def _postscript(text: str, k: JsonObject) -> bool:
    """The marker begins a line or a word, perhaps in bold, with or without spaces in it, and text follows it."""
    marker = r"\s?".join(re.escape(character) for character in k["postscript_marker"].strip() if not character.isspace())
    return re.search(rf"(?<![^\s*_]){marker}[:\s*_]*[^:\s*_]", text, re.IGNORECASE) is not None


def is_bullet(line: str, markers: str = "*-+") -> bool:
    """Whether a line is an item of a Markdown list. A divider, bold text and text in italics at its beginning are not."""
    line = line.strip()
    if not line or line[0] not in markers or not line.strip(_RULE_CHARS):
        return False
    if line[1].isspace():
        return True
    return line[0] != "+" and line[1] != line[0] and not (line[0] == "*" and "*" in line[1:])


def _bullets(text: str, k: JsonObject) -> bool:
    return sum(map(is_bullet, text.splitlines())) == k["num_bullets"]


def _highlights(text: str, k: JsonObject) -> bool:
    return sum(1 for _ in _HIGHLIGHT.finditer(text)) >= k["num_highlights"]


def _sections(text: str, k: JsonObject) -> bool:
    """The marker with a number; a Roman one with a title behind it at most, because "Section I" may begin a sentence."""
    splitter = re.escape(k["section_spliter"].strip())
    roman = rf"^[ \t*#>_]*{splitter}\s?[IVXLC]{{1,7}}[ \t*_]*(?:[:.)\u2013\u2014-].*)?$"
    found = re.finditer(rf"(?<!\w){splitter}\s?\d+|{roman}", text, re.MULTILINE)
    return sum(1 for _ in found) >= k["num_sections"]


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
    """The request first, whatever its case and white space, and then something else."""
    wanted, found = (" ".join(own.split()).casefold() for own in (k["prompt_to_repeat"], text))
    return found.startswith(wanted) and len(found) > len(wanted)


def _end(text: str, k: JsonObject) -> bool:
    marks = "\"'*_\u201c\u201d\u2019\u00bb \n"
    return text.strip(marks).casefold().endswith(k["end_phrase"].strip().strip(marks).casefold())


def _quotation(text: str, k: JsonObject) -> bool:
    return len(text) > 2 and text[0] + text[-1] in QUOTES and text[1:-1].strip() != ""


def _constrained(text: str, k: JsonObject) -> bool:
    """One of the responses, perhaps more than once, and none of the others."""
    longest_first = sorted(map(re.escape, k.get("options", CONSTRAINED)), key=len, reverse=True)
    return len(set(re.findall(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", text))) == 1


def _constrained_any(text: str, k: JsonObject) -> bool:
    return any(response in text for response in k.get("options", CONSTRAINED))


def _capitals(text: str, k: JsonObject) -> bool:
    return text.isupper() and "en" in languages_of(text)


def _lowercase(text: str, k: JsonObject) -> bool:
    return text.islower() and "en" in languages_of(text)


def _counted(key: str) -> Callable[[JsonObject], str]:
    """`impossible` of a rule that asks for 0 parts of a kind that every text has."""
    return lambda k: f"every text has one, and {key} is 0" if k[key] < 1 else ""


IFEVAL_RULES: dict[str, InstructionRule] = {
    "keywords:existence": InstructionRule(_existence, {"keywords": TEXTS}, lenient=_existence_inside),
    "keywords:frequency": InstructionRule(
        _frequency,
        {"keyword": TEXT, "frequency": COUNT, "relation": RELATION},
        lenient=_frequency_inside,
        impossible=never_less("frequency", "relation", 0, "0 of it or more"),
    ),
    "keywords:forbidden_words": InstructionRule(
        lambda text, k: lacks_words(text, k["forbidden_words"]), {"forbidden_words": TEXTS}
    ),
    "keywords:letter_frequency": InstructionRule(
        _letter_frequency,
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION},
        impossible=never_less("let_frequency", "let_relation", 0, "0 of it or more"),
    ),
    "language:response_language": InstructionRule(
        lambda text, k: k["language"] in languages_of(text), {"language": LANGUAGE}, needs_language=True
    ),
    "length_constraints:number_sentences": InstructionRule(
        lambda text, k: compare(count_sentences(text), k["relation"], k["num_sentences"], slack=1),
        {"num_sentences": COUNT, "relation": RELATION},
        impossible=never_less("num_sentences", "relation", 1, "a sentence"),
    ),
    "length_constraints:number_paragraphs": InstructionRule(
        _paragraphs, {"num_paragraphs": COUNT}, lenient=_paragraphs_anywhere, impossible=_counted("num_paragraphs")
    ),
    "length_constraints:number_words": InstructionRule(
        lambda text, k: compare(len(words(text)), k["relation"], k["num_words"]),
        {"num_words": COUNT, "relation": RELATION},
        impossible=never_less("num_words", "relation", 1, "a word"),
    ),
    "length_constraints:nth_paragraph_first_word": InstructionRule(
        _nth_paragraph, {"num_paragraphs": COUNT, "nth_paragraph": COUNT, "first_word": TEXT}, impossible=_nth_impossible
    ),
    "detectable_content:number_placeholders": InstructionRule(
        lambda text, k: sum(map(bool, map(str.strip, _PLACEHOLDER.findall(text)))) >= k["num_placeholders"],
        {"num_placeholders": COUNT},
    ),
    "detectable_content:postscript": InstructionRule(_postscript, {"postscript_marker": TEXT}),
    "detectable_format:number_bullet_lists": InstructionRule(_bullets, {"num_bullets": COUNT}),
    "detectable_format:constrained_response": InstructionRule(
        _constrained, {"options": Kwarg(TEXTS.read, TEXTS.expected, optional=True)}, lenient=_constrained_any
    ),
    "detectable_format:number_highlighted_sections": InstructionRule(_highlights, {"num_highlights": COUNT}),
    "detectable_format:multiple_sections": InstructionRule(_sections, {"section_spliter": TEXT, "num_sections": COUNT}),
    "detectable_format:json_format": InstructionRule(lambda text, k: is_json(text)),
    "detectable_format:title": InstructionRule(_title),
    "combination:two_responses": InstructionRule(_two_responses),
    "combination:repeat_prompt": InstructionRule(_repeat_prompt, {"prompt_to_repeat": TEXT}),
    "startend:end_checker": InstructionRule(_end, {"end_phrase": TEXT}),
    "startend:quotation": InstructionRule(_quotation),
    "change_case:capital_word_frequency": InstructionRule(
        lambda text, k: compare(capital_words(text), k["capital_relation"], k["capital_frequency"]),
        {"capital_frequency": COUNT, "capital_relation": RELATION},
        impossible=never_less("capital_frequency", "capital_relation", 0, "0 of them or more"),
    ),
    "change_case:english_capital": InstructionRule(_capitals, needs_language=True),
    "change_case:english_lowercase": InstructionRule(_lowercase, needs_language=True),
    "punctuation:no_comma": InstructionRule(lambda text, k: _COMMA.search(text) is None),
}
