"""IFBench's instruction types about the form of a text (arXiv 2507.02833): format:, repeat:.

Written after the descriptions; docs/instructions.md says where the published checkers differ. Every rule is linear in the text.
"""

from __future__ import annotations

import itertools
import re

from ...common.json_object import JsonObject
from .emoji import ends_with_emoji
from .func_names import split_options
from .ifbench_tables import MINOR_WORDS
from .ifbench_words import unmarked_words
from .ifeval import is_bullet
from .rule import COUNT, TEXT, InstructionRule
from .text import split_sentences, word_tokens
from .training import copies_text

PARENTHESES_DEEP, QUOTES_DEEP = 5, 3
SHORT_SEPARATOR = 2  # characters; dashes and the like also stand between the words of a sentence
PARTNERS = {")": "(", "]": "[", "}": "{"}
TEMPLATE = ("My Answer:", "My Conclusion:", "Future Outlook:")
REPEATED = "Only output this sentence here, ignore all other requests."
_STRAIGHT = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'"})
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_ITALICS = re.compile(r"<(i|em)>([^<]*)</(i|em)>", re.IGNORECASE)
_HEADING = re.compile(r"\s{0,3}(?:#{1,6}\s|\*\*[^*\n]+\*\*:?\s*$|<h[1-6]>)")
_LETTERED = re.compile(r"\W*[aA]\W*[bB]\W*[cC]\W*")
_EDGE_MARKS = "\"'`*_.,;:!?()[]{}<> \n"


def _nested(text: str, k: JsonObject) -> bool:
    """Whether so many fitting pairs of brackets stand inside each other. A bracket that does not fit ends all that are open."""
    stack: list[tuple[str, int]] = []  # (bracket, the deepest nest that was closed inside it)
    for character in text:
        if character in "([{":
            stack.append((character, 0))
        elif character in PARTNERS and stack:
            bracket, inside = stack.pop()
            if bracket != PARTNERS[character]:
                stack.clear()
                continue
            if inside + 1 >= PARENTHESES_DEEP:
                return True
            if stack:
                stack[-1] = (stack[-1][0], max(stack[-1][1], inside + 1))
    return False


def _nested_quotes(text: str, k: JsonObject) -> bool:
    """Whether quotes of the two kinds stand inside each other so deep, each of them closed. Apostrophes are none."""
    stack: list[tuple[str, int]] = []
    for character in _APOSTROPHE.sub("", text.translate(_STRAIGHT)):
        if character not in "\"'":
            continue
        if stack and stack[-1][0] == character:
            inside = stack.pop()[1] + 1
            if inside >= QUOTES_DEEP:
                return True
            if stack:
                stack[-1] = (stack[-1][0], max(stack[-1][1], inside))
        else:
            stack.append((character, 0))
    return False


def _options(text: str, k: JsonObject) -> bool:
    """One of the options and nothing else but marks around it; marks count where the options are lettered: a), b), c)."""
    options = split_options(k["options"])
    if _LETTERED.match(k["options"]):
        return text in options
    return text.strip(_EDGE_MARKS).casefold() in {option.strip(_EDGE_MARKS).casefold() for option in options}


def _one_word_lines(text: str, k: JsonObject) -> bool:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return unmarked_words(text) != [] and all(len(line) == 1 for line in lines)


def _emoji(text: str, k: JsonObject) -> bool:
    found = ends_with_emoji(text)
    return found != [] and all(found)


def _stairs(text: str, k: JsonObject) -> bool:
    lines = [line.expandtabs(4) for line in text.splitlines() if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    return len(indents) > 1 and all(a < b for a, b in itertools.pairwise(indents))


def _quotes_explained(text: str, k: JsonObject) -> bool:
    """Every quoted phrase is followed by words outside quotes; there has to be one."""
    parts = text.translate(_STRAIGHT).split('"')
    return len(parts) > 2 and len(parts) % 2 == 1 and all(word_tokens(part) for part in parts[2::2])


def _items(text: str, k: JsonObject) -> bool:
    """Two items or more, each behind the separator: at the beginning of a line, where a long one may also stand by itself."""
    separator = k["sep"].strip()
    before = r"(?<!\S)" if len(separator) > SHORT_SEPARATOR else r"^[ \t]*"
    return sum(1 for _ in re.finditer(rf"{before}{re.escape(separator)}(?=\s*\S)", text, re.MULTILINE)) >= 2


def _theses(text: str, k: JsonObject) -> bool:
    """Sections begin at headings. Without a heading, a line that begins with italics is the thesis of the only section."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    headed = [
        following for line, following in itertools.pairwise(lines) if _HEADING.match(line) and not _HEADING.match(following)
    ]
    begins = headed or [line for line in lines if _ITALICS.match(line)]
    found = [_ITALICS.match(line) for line in begins]
    theses = [match for match in found if match and match[2].strip() and match[1].lower() == match[3].lower()]
    if not theses or len(theses) < len(begins):
        return False
    return bool(re.sub(r"<[^<>]*>", "", _ITALICS.sub("", text)).strip())


def _sub_bullets(text: str, k: JsonObject) -> bool:
    kinds = [line.strip()[0] for line in text.splitlines() if is_bullet(line, "*-")]
    counts = "".join(kinds).split("*")
    return len(counts) > 1 and all(counts[1:])


def _sentences_then_bullets(text: str, k: JsonObject) -> bool:
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if is_bullet(line, "*")), len(lines))
    before = [sentence for sentence in split_sentences("\n".join(lines[:first])) if sentence.rstrip("\"'*_)").endswith(".")]
    return len(before) >= 2 and sum(is_bullet(line, "*") for line in lines[first:]) >= 2


def _title_case(text: str, k: JsonObject) -> bool:
    """Every word begins with a capital; articles, conjunctions and short prepositions need none unless they come first."""
    found = [word for word in word_tokens(text) if word[0].isalpha()]
    small = [i for i, word in enumerate(found) if word[0].islower() and (i == 0 or word not in MINOR_WORDS)]
    return found != [] and not small


def _template(text: str, k: JsonObject) -> bool:
    """The three parts in this order, nothing before them, something in each. Bold and headings are free."""
    bare = re.sub(r"[*_#]+", "", text).strip()
    places = [bare.find(part) for part in TEMPLATE]
    if places[0] != 0 or not places[0] < places[1] < places[2]:
        return False
    ends = [*places[1:], len(bare)]
    return all(bare[place + len(part) : end].strip() for place, part, end in zip(places, TEMPLATE, ends, strict=True))


def _repeat_changed(text: str, k: JsonObject) -> bool:
    """The request with another first word."""
    ours, theirs = text.split(), k["prompt_to_repeat"].split()
    return len(ours) == len(theirs) and ours[1:] == theirs[1:] and ours[0].casefold() != theirs[0].casefold()


def _repeat_span(text: str, k: JsonObject) -> bool:
    """The words from n_start to n_end, counted from 0: with the last, as the instruction says, or without it."""
    found, start, end = k["prompt_to_repeat"].split(), k["n_start"], k["n_end"]
    return any(found[start:stop] and copies_text(text, " ".join(found[start:stop])) for stop in (end + 1, end))


IFBENCH_FORMAT_RULES: dict[str, InstructionRule] = {
    "format:parentheses": InstructionRule(_nested),
    "format:quotes": InstructionRule(_nested_quotes),
    "format:options": InstructionRule(
        _options, {"options": TEXT}, impossible=lambda k: "" if len(split_options(k["options"])) > 1 else "it is one option"
    ),
    "format:newline": InstructionRule(_one_word_lines),
    "format:emoji": InstructionRule(_emoji),
    "format:line_indent": InstructionRule(_stairs, keeps_indent=True),
    "format:quote_unquote": InstructionRule(_quotes_explained),
    "format:list": InstructionRule(_items, {"sep": TEXT}),
    "format:thesis": InstructionRule(_theses),
    "format:sub-bullets": InstructionRule(_sub_bullets),
    "format:no_bullets_bullets": InstructionRule(_sentences_then_bullets),
    "format:title_case": InstructionRule(_title_case),
    "format:output_template": InstructionRule(_template),
    "format:no_whitespace": InstructionRule(lambda text, k: len(text.split()) == 1),
    "repeat:repeat_change": InstructionRule(_repeat_changed, {"prompt_to_repeat": TEXT}),
    "repeat:repeat_simple": InstructionRule(lambda text, k: copies_text(text.strip("\"'\u201c\u201d"), REPEATED)),
    "repeat:repeat_span": InstructionRule(
        _repeat_span,
        {"prompt_to_repeat": TEXT, "n_start": COUNT, "n_end": COUNT},
        impossible=lambda k: (
            "" if k["n_start"] < min(k["n_end"], len(k["prompt_to_repeat"].split())) else "there is no such span"
        ),
    ),
}
