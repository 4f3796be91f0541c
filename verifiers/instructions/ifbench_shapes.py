"""What each instruction type of IFBench asks of a text, written into a Draft; for most of them it is the whole text."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable

from ...common.json_object import JsonObject
from .draft import Draft
from .func_names import split_options
from .ifbench_custom import BIRD, CITY, PRODUCT, STUDENT
from .ifbench_formats import REPEATED
from .ifbench_tables import AFRICA, CAPITALS, CONJUNCTIONS, PERSON_NAMES
from .ifbench_words import KEYWORD_COUNTS
from .shapes import AROUND, CASE, WORDS, Shape, at_position, both, extend, no_repeats, put, so_often, wrap

STRANGE = 0x4E00  # the first of 20,000 characters that a reference text of another script has not
STRANGE_COUNT = 20_000
REFERENCE_CHARS = 1_000
PALINDROMES = "level radar civic kayak refer rotor madam stats solos tenet minim"
QUESTION = "Question {}: Who painted this picture{}?\nA) One\nB) Two\nC) Three\nD) Four\nE) Five"


def _whole(text: str) -> Shape:
    return put("whole", lambda k: text)


def _made_up(count: int) -> list[str]:
    """So many different words of letters."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprst", "aeiou")]
    return ["".join(pair) for pair in itertools.islice(itertools.product(syllables, syllables, syllables), count)]


def _overlap(draft: Draft, k: JsonObject) -> None:
    """The reference, and as many trigrams of characters that it lacks as the percentage takes."""
    reference = k["reference_text"][:REFERENCE_CHARS]
    known = len({reference[i : i + 3] for i in range(len(reference) - 2)})
    share = max(k["percentage"], 1) / 100
    strange = min(round(known / share - known), STRANGE_COUNT)
    draft.whole = reference + "".join(chr(STRANGE + i) for i in range(strange))


def _in_japanese(draft: Draft, k: JsonObject) -> None:
    def change(text: str) -> str:
        return " ".join("\u65e5\u672c" if (i + 1) % k["N"] == 0 else word for i, word in enumerate(text.split()))

    draft.least_words = max(draft.least_words, k["N"])
    draft.finish.append((WORDS, change))


def _in_sentence(draft: Draft, k: JsonObject) -> None:
    draft.opening.append(" ".join([*["It is so."] * (k["N"] - 1), f"We see {k['word'].strip()}."]))


def _growing(draft: Draft, k: JsonObject) -> None:
    draft.whole = " ".join(" ".join(["So", *["we"] * (k["small_n"] * i)]) + "." for i in range(3))


def _around_second(draft: Draft, k: JsonObject) -> None:
    keyword = k["keyword"].strip()
    draft.finish.append((WORDS, lambda text: f"so {keyword} {text.rstrip('.')} {keyword} so."))


def _stairs(text: str) -> str:
    words = text.split()
    return "\n".join((" ".join(words[: len(words) // 2]), "    " + " ".join(words[len(words) // 2 :])))


def _repeat_changed(draft: Draft, k: JsonObject) -> None:
    words = k["prompt_to_repeat"].split()
    draft.whole = " ".join(["We" if words[0].casefold() == "so" else "So", *words[1:]])


def _titled(text: str) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in text.split(" "))


def _table(header: list[str], rows: int, field: Callable[[int], str], delimiter: str = ",") -> Shape:
    lines = [header, *([field(column) for column in range(len(header))] for _ in range(rows))]
    return _whole("\n".join(map(delimiter.join, lines)))


IFBENCH_SHAPES: dict[str, Shape] = {
    "count:word_count_range": lambda draft, k: setattr(draft, "least_words", max(draft.least_words, k["min_words"])),
    "count:unique_word_count": extend("pieces", lambda k: _made_up(k["N"])),
    "count:conjunctions": extend("pieces", lambda k: sorted(CONJUNCTIONS)[: k["small_n"]]),
    "count:person_names": extend("pieces", lambda k: [name.title() for name in sorted(PERSON_NAMES)[: k["N"]]]),
    "count:numbers": extend("pieces", lambda k: ["7"] * k["N"]),
    "count:punctuation": extend("pieces", lambda k: ["so, so; so: so! so? so?! so."]),
    "count:words_japanese": _in_japanese,
    "count:pronouns": extend("pieces", lambda k: ["we"] * k["N"]),
    "count:keywords_multiple": lambda draft, k: [
        so_often(draft, k[key], "exactly", times) for key, times in KEYWORD_COUNTS.items()
    ],
    "ratio:stop_words": put("filler", lambda k: ("fjord zebra nymph glyph quack",)),
    "ratio:sentence_type": _whole("It rains. We stay in. Is it so?"),
    "ratio:sentence_balance": _whole("It rains. Is it so? It is so!"),
    "ratio:overlap": _overlap,
    "ratio:sentence_words": _whole("Old cats nap. Big dogs run. New owls fly."),
    "words:alphabet": _whole("all birds can dive even from great heights"),
    "words:vowel": lambda draft, k: setattr(draft, "avoided_letters", draft.avoided_letters + "ou"),
    "words:consonants": put("filler", lambda k: ("strong drums march north",)),
    "words:palindrome": extend("pieces", lambda k: PALINDROMES.split()),
    "words:prime_lengths": put("filler", lambda k: ("cat sky it is",)),
    "words:repeats": wrap(no_repeats, WORDS),
    "words:last_first": _whole("I see rain. Rain makes rivers. Rivers run."),
    "words:paragraph_last_first": both(put("each_start", lambda k: "so"), put("each_end", lambda k: "so")),
    "words:no_consecutive": put("filler", lambda k: ("we go",)),
    "words:keywords_specific_position": at_position,
    "words:words_position": _around_second,
    "sentence:increment": _growing,
    "sentence:alliteration_increment": _whole("Cats run. Big bears run. Tall tame tigers run."),
    "sentence:keyword": _in_sentence,
    "format:parentheses": extend("pieces", lambda k: ["(so [so {so (so [so])}])"]),
    "format:quotes": extend("pieces", lambda k: ['"so \'so "so" so\' so"']),
    "format:options": put("whole", lambda k: split_options(k["options"])[0]),
    "format:newline": wrap(lambda text: "\n".join(text.split()), WORDS),
    "format:emoji": put("stop", lambda k: " \U0001f600."),
    "format:line_indent": wrap(_stairs, AROUND),
    "format:quote_unquote": extend("pieces", lambda k: ['"so" that is']),
    "format:list": extend("lines", lambda k: [f"{k['sep'].strip()} so"] * 2),
    "format:thesis": lambda draft, k: draft.opening.insert(0, "<i>So it is</i>"),
    "format:sub-bullets": extend("lines", lambda k: ["* so", "  - we go"]),
    "format:no_bullets_bullets": both(
        lambda draft, k: setattr(draft, "least_sentences", max(draft.least_sentences, 2)),
        extend("lines", lambda k: ["* so", "* so"]),
    ),
    "format:title_case": wrap(_titled, CASE),
    "format:output_template": _whole("My Answer: so\nMy Conclusion: so\nFuture Outlook: so"),
    "format:no_whitespace": wrap(lambda text: "".join(text.split()), AROUND),
    "repeat:repeat_change": _repeat_changed,
    "repeat:repeat_simple": _whole(REPEATED),
    "repeat:repeat_span": put("whole", lambda k: " ".join(k["prompt_to_repeat"].split()[k["n_start"] : k["n_end"] + 1])),
    "custom:multiples": _whole("14, 21, 28, 35, 42, 49"),
    "custom:mcq_count_length": _whole("\n\n".join(QUESTION.format(i, " here" * i) for i in range(1, 5))),
    "custom:reverse_newline": _whole("\n".join(sorted(map(str.title, AFRICA), reverse=True))),
    "custom:word_reverse": _whole("Eagle bald the is it."),
    "custom:character_reverse": _whole(f"{BIRD[::-1]} eht si tI"),
    "custom:sentence_alphabet": _whole(" ".join(f"{letter}{letter.lower()} ran." for letter in string.ascii_uppercase)),
    "custom:european_capitals_sort": _whole(", ".join(CAPITALS)),
    "custom:csv_city": _table(CITY, 7, lambda column: str(column)),
    "custom:csv_special_character": _table(PRODUCT, 14, lambda column: '"a&b"' if column == 1 else str(column)),
    "custom:csv_quotes": _table([f'"{name}"' for name in STUDENT], 3, lambda column: f'"{column}"', "\t"),
    "custom:date_format_list": _whole("1805-12-02, 1815-06-18"),
}
