"""The 29 further instruction types that models are trained on: IF-RLVR (arXiv 2507.02833, appendix), also in Nemotron's sets.

Written after their descriptions. Where the published checkers fail every obedient answer (punctuation counted as words, * * *
that divides nothing) or pay for nothing ("a" as a palindrome, one sentence "connected by hyphens"), the description decides.
Every rule is linear in the text.
"""

from __future__ import annotations

import itertools
import re

from ...common.json_object import JsonObject
from .ifeval import IFEVAL_RULES, lacks_words
from .rule import COUNT, RELATION, TEXT, InstructionRule, Kwarg, compare, different, never_less
from .text import (
    count_keyword,
    count_sentences,
    first_word,
    last_word,
    split_blocks,
    split_divided,
    split_sentences,
    word_tokens,
)

REPEATS = "******"
PALINDROME_CHARS = 3  # every letter alone reads the same backwards
_HYPHEN_JOINT = re.compile(r"(?<=[.!?\u2026])-(?=\S)")
_BRACKETED = re.compile(r"\[[^\[\]\s]+\]")
_LETTERS = re.compile(r"[^\W\d_]")
_DOTS = re.compile("[.\u2024\u2025\u2026\u3002\uff0e]")
_EXCLAMATIONS = re.compile("[!\u00a1\u203c\uff01]")
ANY_TEXT = Kwarg(lambda value: value, "anything", optional=True)
OPTIONAL_RELATION = Kwarg(RELATION.read, RELATION.expected, optional=True)


def copies_text(left: str, right: str) -> bool:
    """Whether two texts are equal but for case and white space."""
    return " ".join(left.split()).casefold() == " ".join(right.split()).casefold()


def is_palindrome(word: str, least_chars: int) -> bool:
    """Whether a word, or a text without its spaces and marks, reads the same backwards."""
    letters = "".join(character for character in word.casefold() if character.isalnum())
    return len(letters) >= least_chars and letters == letters[::-1]


def _repeat_phrase(text: str, k: JsonObject) -> bool:
    """So many copies of the phrase, each with exactly one of its inner words replaced, and no copy as it was."""
    phrase, found = word_tokens(k["phrase"].casefold()), word_tokens(text.casefold())
    changed, position = 0, 0
    while position + len(phrase) <= len(found):
        window = found[position : position + len(phrase)] if found[position] == phrase[0] else []
        if not window or window[-1] != phrase[-1]:
            position += 1
            continue
        differences = sum(a != b for a, b in zip(window, phrase, strict=True))
        if differences == 0:
            return False
        changed += differences == 1
        position += len(phrase) if differences == 1 else 1
    return changed == k["small_n"]


def _copy(text: str, k: JsonObject) -> bool:
    return copies_text(text, k["prompt_to_repeat"])


def _copies(text: str, k: JsonObject) -> bool:
    parts = text.split(REPEATS)
    return len(parts) == k["N"] and all(copies_text(part, k["prompt_to_repeat"]) for part in parts)


def _copy_span(text: str, k: JsonObject) -> bool:
    """The characters from n_start to n_end: with the last, as the instruction says, or without it, as its checker has it."""
    prompt, start, end = k["prompt_to_repeat"], k["n_start"], k["n_end"]
    return any(prompt[start:stop].strip() and copies_text(text, prompt[start:stop]) for stop in (end, end + 1))


def _span_impossible(k: JsonObject) -> str:
    return "" if k["prompt_to_repeat"][k["n_start"] : k["n_end"]].strip() else "there is no text between n_start and n_end"


def _sentence_hyphens(text: str, k: JsonObject) -> bool:
    pieces = _HYPHEN_JOINT.split(text)
    return len(pieces) > 1 and all(piece == piece.strip() and count_sentences(piece) == 1 for piece in pieces)


def _no_adjacent(text: str, k: JsonObject) -> bool:
    letters = [word[0].lower() for word in word_tokens(text)]
    pairs = itertools.pairwise(letters)
    return letters != [] and not any("a" <= a < b <= "z" and ord(b) - ord(a) == 1 for a, b in pairs)


def _square_brackets(text: str, k: JsonObject) -> bool:
    outside, count = _BRACKETED.subn("", text)
    return count > 0 and not word_tokens(outside)


def _different_numbers(text: str, k: JsonObject) -> bool:
    """As often as the relation says; exactly so often without one, because the instruction names only the number."""
    relation = k.get("relation", "exactly")
    return compare(count_keyword(text, k["keyword"], plural=relation != "exactly"), relation, k["frequency"])


def _two_paragraphs(text: str, k: JsonObject) -> bool:
    found = split_divided(text)
    return found is not None and len(found) == 2


def _first_of_sentences(text: str, k: JsonObject) -> bool:
    found = split_sentences(text)
    return found != [] and all(first_word(sentence) == first_word(k["first_word"]) for sentence in found)


def _last_of_sentences(text: str, k: JsonObject) -> bool:
    found = split_sentences(text)
    return found != [] and all(last_word(sentence) == last_word(k["last_word"]) for sentence in found)


def _bigrams(text: str, k: JsonObject) -> bool:
    """<<two words>> again and again; the last may be alone if their number is odd."""
    inside = re.findall(r"<<([^<>]*)>>", text)
    outside = re.sub(r"<<[^<>]*>>", " ", text)
    counts = [len(part.split()) for part in inside]
    lone = len(word_tokens(outside))
    if not counts or lone > 1 or (lone == 1 and not text.rstrip(".!? ").endswith(word_tokens(outside)[0])):
        return False
    return counts[0] == 2 and set(counts[:-1]) <= {2} and counts[-1] in ((2,) if lone else (1, 2))


def _lowercase_words(text: str, k: JsonObject) -> bool:
    return sum(word.islower() for word in word_tokens(text)) <= k["N"]


def _composition(text: str, k: JsonObject) -> bool:
    found = split_divided(text)
    if found is None or len(found) != 3:
        return False
    sentences = [split_sentences(part) for part in found]
    if any(len(part) != k["n_sent"] for part in sentences):
        return False
    return all(len(word_tokens(sentence)) == k["n_words"] for part in sentences for sentence in part)


def _unique_words(text: str, k: JsonObject) -> bool:
    found = [word.casefold() for word in word_tokens(text)]
    return found != [] and len(found) == len(set(found))


def _once_and_twice(text: str, k: JsonObject) -> bool:
    return count_keyword(text, k["keyword1"]) == 1 and count_keyword(text, k["keyword2"]) == 2


def _palindrome(text: str, k: JsonObject) -> bool:
    """A word, a line or a sentence that reads the same backwards."""
    whole = (part for part in (*text.splitlines(), *split_sentences(text)) if len(part.split()) > 1)
    return any(is_palindrome(part, PALINDROME_CHARS) for part in (*word_tokens(text), *whole))


def _palindrome_of_one(text: str, k: JsonObject) -> bool:
    return any(word == word[::-1] for word in text.split())


def _keyword_at(text: str, k: JsonObject) -> bool:
    """Whether the keyword is the m-th word of the n-th sentence, both counted from 1."""
    sentences = split_sentences(text)
    found = word_tokens(sentences[k["n"] - 1]) if k["n"] <= len(sentences) else []
    return k["m"] <= len(found) and found[k["m"] - 1].casefold() == k["keyword"].strip().casefold()


def _start_and_end(text: str, k: JsonObject) -> bool:
    found = word_tokens(text)
    return len(found) > 1 and found[0].casefold() == found[-1].casefold() and text.endswith(found[-1])


def _position_impossible(k: JsonObject) -> str:
    if k["n"] < 1 or k["m"] < 1:
        return "sentences and words are counted from 1"
    return "" if word_tokens(k["keyword"]) == [k["keyword"].strip()] else "the keyword is not one word"


TRAINING_RULES: dict[str, InstructionRule] = {
    "copy:repeat_phrase": InstructionRule(
        _repeat_phrase,
        {"phrase": TEXT, "small_n": COUNT},
        impossible=lambda k: "" if len(word_tokens(k["phrase"])) > 2 else "the phrase has no inner word",
    ),
    "copy:copy": InstructionRule(_copy, {"prompt_to_repeat": TEXT}),
    "copy:copying_simple": InstructionRule(_copy, {"prompt_to_repeat": TEXT}),
    "copy:copying_multiple": InstructionRule(
        _copies, {"prompt_to_repeat": TEXT, "N": COUNT}, impossible=lambda k: "" if k["N"] else "N is 0"
    ),
    "new:copy_span_idx": InstructionRule(
        _copy_span, {"prompt_to_repeat": TEXT, "n_start": COUNT, "n_end": COUNT}, impossible=_span_impossible
    ),
    "detectable_format:sentence_hyphens": InstructionRule(_sentence_hyphens),
    "detectable_format:square_brackets": InstructionRule(_square_brackets),
    "detectable_format:bigram_wrapping": InstructionRule(_bigrams),
    "keywords:no_adjacent_consecutive": InstructionRule(_no_adjacent),
    "keywords:word_once": InstructionRule(lambda text, k: count_keyword(text, k["keyword"]) == 1, {"keyword": TEXT}),
    "keywords:word_count_different_numbers": InstructionRule(
        _different_numbers, {"keyword": TEXT, "frequency": COUNT, "relation": OPTIONAL_RELATION}
    ),
    "keywords:exclude_word_harder": InstructionRule(
        lambda text, k: lacks_words(text, [k["keyword"]]), {"keyword": TEXT, "instruction": ANY_TEXT}
    ),
    "keywords:palindrome": InstructionRule(_palindrome, lenient=_palindrome_of_one),
    "keywords:keyword_specific_position": InstructionRule(
        _keyword_at,
        {"keyword": TEXT, "n": COUNT, "m": COUNT},
        impossible=_position_impossible,
    ),
    "keywords:start_end": InstructionRule(_start_and_end),
    "paragraphs:paragraphs": InstructionRule(_two_paragraphs),
    "paragraphs:paragraphs2": InstructionRule(lambda text, k: len(split_blocks(text)) == 2),
    "first_word:first_word_sent": InstructionRule(_first_of_sentences, {"first_word": TEXT}),
    "first_word:first_word_answer": InstructionRule(
        lambda text, k: first_word(text) == first_word(k["first_word"]), {"first_word": TEXT}
    ),
    "last_word:last_word_sent": InstructionRule(_last_of_sentences, {"last_word": TEXT}),
    "last_word:last_word_answer": InstructionRule(
        lambda text, k: last_word(text) == last_word(k["last_word"]), {"last_word": TEXT}
    ),
    "punctuation:punctuation_dot": InstructionRule(lambda text, k: _DOTS.search(text) is None),
    "punctuation:punctuation_exclamation": InstructionRule(lambda text, k: _EXCLAMATIONS.search(text) is None),
    "count:lowercase_counting": InstructionRule(_lowercase_words, {"N": COUNT}),
    "count:counting_composition": InstructionRule(
        _composition,
        {"n_sent": COUNT, "n_words": COUNT},
        impossible=lambda k: "" if k["n_sent"] and k["n_words"] else "a paragraph has a sentence, a sentence has a word",
    ),
    "count:count_unique": InstructionRule(_unique_words),
    "count:count_increment_word": InstructionRule(
        _once_and_twice, {"keyword1": TEXT, "keyword2": TEXT}, impossible=different("keyword1", "keyword2")
    ),
    "letters:letter_counting": InstructionRule(
        lambda text, k: compare(sum(1 for _ in _LETTERS.finditer(text)), k["relation"], k["N"]),
        {"N": COUNT, "relation": RELATION},
        impossible=never_less("N", "relation", 0, "0 or more"),
    ),
    "letters:letter_counting2": IFEVAL_RULES["keywords:letter_frequency"],
}
