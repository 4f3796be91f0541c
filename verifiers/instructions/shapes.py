"""What each instruction type of IFEval and IF-RLVR asks of a text, written into a Draft."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from ...common.json_object import JsonObject
from .draft import Draft
from .ifeval import CONSTRAINED
from .languages import SAMPLES
from .text import word_tokens
from .training import REPEATS

Shape = Callable[[Draft, JsonObject], object]
FEW = ("less than", "at most")
DIVIDER = "\n\n***\n\n"
# the turns of changes of the whole text: its words, copies of it, its case, what is around it
WORDS, COPIES, CASE, AROUND = range(4)


def _keywords(draft: Draft, k: JsonObject) -> None:
    draft.pieces += [keyword.strip() for keyword in k["keywords"]]


def so_often(draft: Draft, keyword: str, relation: str, times: int) -> None:
    """The keyword in the body as often as the relation asks, and nowhere in the filler."""
    draft.avoided.append(keyword)
    if relation not in FEW:
        draft.pieces += [keyword.strip()] * times


def _letters(draft: Draft, k: JsonObject) -> None:
    if k["let_relation"] not in FEW and k["let_frequency"]:
        draft.pieces.append(k["letter"] * k["let_frequency"])
    if k["let_relation"] != "at least":
        draft.avoided_letters += k["letter"]


def _language(draft: Draft, k: JsonObject) -> None:
    if k["language"] != "en":
        draft.filler = (SAMPLES[k["language"]],)
    draft.least_words = max(draft.least_words, 12)


def _sentences(draft: Draft, k: JsonObject) -> None:
    if k["relation"] not in FEW:
        draft.least_sentences = max(draft.least_sentences, k["num_sentences"])


def _parts(draft: Draft, parts: int, divider: str) -> None:
    draft.parts, draft.divider = parts, divider


def _nth(draft: Draft, k: JsonObject) -> None:
    _parts(draft, k["num_paragraphs"], "\n\n")
    draft.heads[k["nth_paragraph"]] = k["first_word"].strip()


def _num_words(draft: Draft, k: JsonObject) -> None:
    if k["relation"] not in FEW:
        draft.least_words = max(draft.least_words, k["num_words"])


def _two_responses(draft: Draft, k: JsonObject) -> None:
    draft.finish.append(
        (COPIES, lambda text: f"so\n{REPEATS}\n{text}" if draft.closing and not draft.opening else f"{text}\n{REPEATS}\nso")
    )


def _capitals(draft: Draft, k: JsonObject) -> None:
    if k["capital_relation"] not in FEW:
        draft.pieces += ["GO"] * k["capital_frequency"]


def _in_case(change: Callable[[str], str]) -> Shape:
    def shape(draft: Draft, k: JsonObject) -> None:
        draft.least_words = max(draft.least_words, 12 + 2 * len(draft.pieces))
        draft.finish.append((CASE, change))

    return shape


def wrap(change: Callable[[str], str], turn: int = AROUND) -> Shape:
    """A change of the whole text, at its turn."""
    return lambda draft, k: draft.finish.append((turn, change))


def _hyphens(draft: Draft, k: JsonObject) -> None:
    draft.least_sentences = max(draft.least_sentences, 2)
    draft.finish.append((WORDS, lambda text: re.sub(r"([.!?])\s+", r"\1-", text)))


def _bigrams(text: str) -> str:
    found = text.split()
    return " ".join(f"<<{' '.join(found[i : i + 2])}>>" for i in range(0, len(found), 2))


def no_repeats(text: str) -> str:
    """The text without words that have occurred before."""
    seen: set[str] = set()
    kept = []
    for word in text.split():
        tokens = set(word_tokens(word.casefold()))
        if not tokens & seen:
            kept.append(word)
            seen |= tokens
    return " ".join(kept)


def _phrases(draft: Draft, k: JsonObject) -> None:
    words = k["phrase"].split()
    middle = len(words) // 2
    replacement = "we" if words[middle].casefold() == "so" else "so"
    changed = " ".join([*words[:middle], replacement, *words[middle + 1 :]])
    draft.pieces += [changed] * k["small_n"]


def at_position(draft: Draft, k: JsonObject) -> None:
    """First sentences that bring the keyword to its place."""
    sentence = " ".join([*["so"] * (k["m"] - 1), k["keyword"].strip()])
    draft.opening.append(" ".join([*["It is so."] * (k["n"] - 1), sentence[:1].upper() + sentence[1:] + "."]))


def _composition(draft: Draft, k: JsonObject) -> None:
    sentence = " ".join(["So", *["we"] * (k["n_words"] - 1)]) + "."
    draft.whole = "\n* * *\n".join([" ".join([sentence] * k["n_sent"])] * 3)


def put(name: str, value: Callable[[JsonObject], object]) -> Shape:
    """A field of the draft is this value of the kwargs."""
    return lambda draft, k: setattr(draft, name, value(k))


def extend(name: str, value: Callable[[JsonObject], Iterable[str]]) -> Shape:
    """A list of the draft has these texts as well."""
    return lambda draft, k: getattr(draft, name).extend(value(k))


def both(*shapes: Shape) -> Shape:
    """All of these."""
    return lambda draft, k: [shape(draft, k) for shape in shapes]


def _copy(draft: Draft, k: JsonObject) -> None:
    draft.whole = k["prompt_to_repeat"].strip()


SHAPES: dict[str, Shape] = {
    "keywords:existence": _keywords,
    "keywords:frequency": lambda draft, k: so_often(draft, k["keyword"], k["relation"], k["frequency"]),
    "keywords:forbidden_words": extend("avoided", lambda k: k["forbidden_words"]),
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": lambda draft, k: _parts(draft, k["num_paragraphs"], DIVIDER),
    "length_constraints:number_words": _num_words,
    "length_constraints:nth_paragraph_first_word": _nth,
    "detectable_content:number_placeholders": extend("pieces", lambda k: ["[name]"] * k["num_placeholders"]),
    "detectable_content:postscript": lambda draft, k: draft.closing.insert(0, f"{k['postscript_marker'].strip()} so we go"),
    "detectable_format:number_bullet_lists": extend("lines", lambda k: ["* so"] * k["num_bullets"]),
    "detectable_format:constrained_response": extend("pieces", lambda k: [str(k.get("options", CONSTRAINED)[0])]),
    "detectable_format:number_highlighted_sections": extend("pieces", lambda k: ["*so*"] * k["num_highlights"]),
    "detectable_format:multiple_sections": extend(
        "lines", lambda k: [f"{k['section_spliter'].strip()} {i + 1}" for i in range(k["num_sections"])]
    ),
    "detectable_format:json_format": wrap(lambda text: json.dumps({"text": text}, ensure_ascii=False), CASE),
    "detectable_format:title": extend("opening", lambda k: ["<<so it is>>"]),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda draft, k: draft.opening.insert(0, k["prompt_to_repeat"].strip()),
    "startend:end_checker": extend("closing", lambda k: [k["end_phrase"].strip()]),
    "startend:quotation": wrap(lambda text: f'"{text}"'),
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": _in_case(str.upper),
    "change_case:english_lowercase": _in_case(str.lower),
    "punctuation:no_comma": lambda draft, k: None,
    "copy:repeat_phrase": _phrases,
    "copy:copy": _copy,
    "copy:copying_simple": _copy,
    "copy:copying_multiple": put("whole", lambda k: f"\n{REPEATS}\n".join([k["prompt_to_repeat"].strip()] * k["N"])),
    "new:copy_span_idx": put("whole", lambda k: k["prompt_to_repeat"][k["n_start"] : k["n_end"]].strip()),
    "detectable_format:sentence_hyphens": _hyphens,
    "detectable_format:square_brackets": wrap(lambda text: " ".join(f"[{word}]" for word in text.split()), WORDS),
    "detectable_format:bigram_wrapping": wrap(_bigrams, WORDS),
    "keywords:no_adjacent_consecutive": put("filler", lambda k: ("so we go",)),
    "keywords:word_once": lambda draft, k: so_often(draft, k["keyword"], "exactly", 1),
    "keywords:word_count_different_numbers": lambda draft, k: so_often(
        draft, k["keyword"], k.get("relation", "exactly"), k["frequency"]
    ),
    "keywords:exclude_word_harder": extend("avoided", lambda k: [k["keyword"]]),
    "keywords:palindrome": extend("pieces", lambda k: ["level"]),
    "keywords:keyword_specific_position": at_position,
    "keywords:start_end": wrap(lambda text: f"so {text} so", WORDS),
    "paragraphs:paragraphs": lambda draft, k: _parts(draft, 2, DIVIDER),
    "paragraphs:paragraphs2": lambda draft, k: _parts(draft, 2, "\n\n"),
    "first_word:first_word_sent": put("each_start", lambda k: k["first_word"].strip()),
    "first_word:first_word_answer": lambda draft, k: draft.start.insert(0, k["first_word"].strip()),
    "last_word:last_word_sent": put("each_end", lambda k: k["last_word"].strip()),
    "last_word:last_word_answer": extend("closing", lambda k: [k["last_word"].strip()]),
    "punctuation:punctuation_dot": put("stop", lambda k: "!"),
    "punctuation:punctuation_exclamation": lambda draft, k: setattr(draft, "stop", "?" if draft.stop == "!" else draft.stop),
    "count:lowercase_counting": wrap(str.upper, CASE),
    "count:counting_composition": _composition,
    "count:count_unique": wrap(no_repeats, WORDS),
    "count:count_increment_word": both(
        lambda draft, k: so_often(draft, k["keyword1"], "exactly", 1),
        lambda draft, k: so_often(draft, k["keyword2"], "exactly", 2),
    ),
    "letters:letter_counting": lambda draft, k: (
        None if k["relation"] in FEW else draft.pieces.append("".join("aeiou"[i % 5] for i in range(k["N"])))
    ),
    "letters:letter_counting2": _letters,
}
