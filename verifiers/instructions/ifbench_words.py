"""IFBench's instruction types about words, sentences and their numbers (arXiv 2507.02833): count:, ratio:, words:, sentence:.

Written after the descriptions. Where the published checkers differ from them the description decides (docs/instructions.md);
where nothing in a text can break an instruction ("each sentence longer than the last" in one sentence), the text does not
follow it. Every rule is linear in the text.
"""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable

from ...common.json_object import JsonObject
from .ifbench_tables import CONJUNCTIONS, PERSON_NAMES, PRONOUNS, STOP_WORDS
from .rule import COUNT, TEXT, InstructionRule, Kwarg, different
from .text import count_keyword, first_word, last_word, split_sentences, word_tokens, words
from .training import TRAINING_RULES, is_palindrome

KEYWORD_COUNTS = {"keyword1": 1, "keyword2": 2, "keyword3": 3, "keyword4": 5, "keyword5": 7}
OVERLAP_MARGIN = 2  # percent
PALINDROMES, PALINDROME_LETTERS = 10, 5
VOWELS = frozenset("aeiou")
MARKS = ".,;:!?"
_NO_MARKS = str.maketrans("", "", string.punctuation + "\u2018\u2019\u201c\u201d\u2026\u2013\u2014")
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_CLUSTER = re.compile("[bcdfghjklmnpqrstvwxyz]{2}")
_JAPANESE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_INTERROBANG = re.compile(r"\?!|!\?|\u203d")
_END_MARK = re.compile(r"([.!?])[\"'\u201d\u2019)\]*_]*$")


def _percent(value: object) -> float | None:
    """A number from 0 to 100, also as a text."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except ValueError:
        return None
    return number if 0 <= number <= 100 else None


PERCENT = Kwarg(_percent, "a number from 0 to 100")


def unmarked_words(text: str) -> list[str]:
    """The parts between white space that hold a letter or digit, in lower case and without punctuation: "don't" is "dont"."""
    return [word for word in text.casefold().translate(_NO_MARKS).split() if any(map(str.isalnum, word))]


def plain_letters(text: str) -> str:
    """The text in lower case without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def _word_range(text: str, k: JsonObject) -> bool:
    """Words as IFEval counts them, or with "don't" and "well-known" as one each."""
    return any(k["min_words"] <= count <= k["max_words"] for count in (len(words(text)), len(word_tokens(text))))


def _stop_words(text: str, k: JsonObject) -> bool:
    found = [word.casefold() for word in words(text)]
    return found != [] and 100 * sum(word in STOP_WORDS for word in found) <= k["percentage"] * len(found)


def _kinds(text: str) -> Counter[str]:
    """How many sentences end with each of . ? !, quotes and brackets behind it left out."""
    return Counter(match[1] for sentence in split_sentences(text) if (match := _END_MARK.search(sentence[-20:])))


def _two_to_one(text: str, k: JsonObject) -> bool:
    kinds = _kinds(text)
    return kinds["?"] > 0 and kinds["."] == 2 * kinds["?"]


def _balanced(text: str, k: JsonObject) -> bool:
    kinds = _kinds(text)
    return 0 < kinds["."] == kinds["?"] == kinds["!"]


def _overlap(text: str, k: JsonObject) -> bool:
    """The share of the text's trigrams that the reference has: of characters, as the checker counts, or of words."""
    reference = k["reference_text"]
    characters = ({own[i : i + 3] for i in range(len(own) - 2)} for own in (text, reference))
    of_words = ({tuple(own[i : i + 3]) for i in range(len(own) - 2)} for own in (text.split(), reference.split()))
    return any(
        found and abs(100 * len(found & known) / len(found) - k["percentage"]) <= OVERLAP_MARGIN
        for found, known in (characters, of_words)
    )


def _same_length(text: str, k: JsonObject) -> bool:
    sentences = split_sentences(text)
    found = [word.casefold() for word in word_tokens(text)]
    return len(sentences) == 3 and len(set(map(len, sentences))) == 1 and len(found) == len(set(found))


def _conjunctions(text: str, k: JsonObject) -> bool:
    return len({word.casefold() for word in words(text)} & CONJUNCTIONS) >= k["small_n"]


def _names(text: str, k: JsonObject) -> bool:
    return len({word for word in words(text) if word[0].isupper() and word.casefold() in PERSON_NAMES}) >= k["N"]


def _punctuation(text: str, k: JsonObject) -> bool:
    """All marks, and an interrobang that is not made of the only ! and ?."""
    rest, found = _INTERROBANG.subn(" ", text, count=1)
    return found == 1 and all(mark in rest for mark in MARKS)


def _japanese(text: str, k: JsonObject) -> bool:
    """Every n-th word, numbers excepted; there has to be one."""
    chosen = text.split()[k["N"] - 1 :: k["N"]]
    judged = [word for word in chosen if any(map(str.isalpha, word))]
    return judged != [] and all(_JAPANESE.search(word) for word in judged)


def _pronouns(text: str, k: JsonObject) -> bool:
    return sum(word.casefold() in PRONOUNS for word in words(text)) >= k["N"]


def _multiple_keywords(text: str, k: JsonObject) -> bool:
    return all(count_keyword(text, k[key]) == times for key, times in KEYWORD_COUNTS.items())


def _multiple_inside(text: str, k: JsonObject) -> bool:
    folded = text.casefold()
    return all(folded.count(k[key].strip().casefold()) == times for key, times in KEYWORD_COUNTS.items())


def _each_next(found: list[str], follows: Callable[[str, str], bool]) -> bool:
    """Whether all neighbours stand in a relation; two at least."""
    return len(found) > 1 and all(itertools.starmap(follows, itertools.pairwise(found)))


def _alphabet(text: str, k: JsonObject) -> bool:
    letters = [word[0] for word in unmarked_words(text)]
    known = string.ascii_lowercase
    return set(letters) <= set(known) and _each_next(letters, lambda a, b: known.index(b) == (known.index(a) + 1) % 26)


def _three_vowels(text: str, k: JsonObject) -> bool:
    found = set(plain_letters(text)) & VOWELS
    return 0 < len(found) <= 3 and "\n" not in text


def _clusters(text: str, k: JsonObject) -> bool:
    found = unmarked_words(plain_letters(text))
    return found != [] and all(map(_CLUSTER.search, found))


def _palindromes(text: str, *, distinct: bool) -> bool:
    found = [word for word in unmarked_words(text) if is_palindrome(word, PALINDROME_LETTERS)]
    return len(set(found) if distinct else found) >= PALINDROMES


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _prime_lengths(text: str, k: JsonObject) -> bool:
    found = unmarked_words(text)
    return found != [] and all(map(_is_prime, set(map(len, found))))


def _repeats(text: str, k: JsonObject) -> bool:
    return max(Counter(unmarked_words(text)).values(), default=0) <= k["small_n"]


def _last_is_first(text: str, k: JsonObject) -> bool:
    return _each_next(split_sentences(text), lambda a, b: last_word(a) == first_word(b))


def _paragraph_ends(text: str, k: JsonObject) -> bool:
    found = [words_of for line in text.splitlines() if (words_of := unmarked_words(line))]
    return any(len(words_of) > 1 for words_of in found) and all(words_of[0] == words_of[-1] for words_of in found)


def _no_consecutive(text: str, k: JsonObject) -> bool:
    return _each_next([word[0] for word in unmarked_words(text)], lambda a, b: a != b)


def _second_words(text: str, k: JsonObject) -> bool:
    found = [word.casefold() for word in word_tokens(text)]
    return len(found) > 1 and found[1] == found[-2] == k["keyword"].strip().casefold()


def _increment(text: str, k: JsonObject) -> bool:
    counts = [len(unmarked_words(sentence)) for sentence in split_sentences(text)]
    return len(counts) > 1 and all(b - a == k["small_n"] for a, b in itertools.pairwise(counts))


def _longest_alliteration(sentence: str) -> int:
    """The length of the longest run of words with one first letter; 0 without two such words."""
    runs = (sum(1 for _ in run) for _, run in itertools.groupby(word[0] for word in unmarked_words(sentence)))
    longest = max(runs, default=0)
    return longest if longest > 1 else 0


def _alliteration(text: str, k: JsonObject) -> bool:
    lengths = list(map(_longest_alliteration, split_sentences(text)))
    return len(lengths) > 1 and all(a < b for a, b in itertools.pairwise(lengths))


def _keyword_in_sentence(text: str, k: JsonObject) -> bool:
    sentences = split_sentences(text)
    return len(sentences) >= k["N"] and count_keyword(sentences[k["N"] - 1], k["word"]) > 0


def _from_one(key: str) -> Callable[[JsonObject], str]:
    return lambda k: "" if k[key] >= 1 else f"{key} is counted from 1"


IFBENCH_WORD_RULES: dict[str, InstructionRule] = {
    "count:word_count_range": InstructionRule(
        _word_range,
        {"min_words": COUNT, "max_words": COUNT},
        impossible=lambda k: "" if 0 < k["max_words"] >= k["min_words"] else "no number of words lies between them",
    ),
    "count:unique_word_count": InstructionRule(lambda text, k: len(set(unmarked_words(text))) >= k["N"], {"N": COUNT}),
    "count:conjunctions": InstructionRule(
        _conjunctions,
        {"small_n": COUNT},
        impossible=lambda k: "" if k["small_n"] <= len(CONJUNCTIONS) else f"there are {len(CONJUNCTIONS)} conjunctions",
    ),
    "count:person_names": InstructionRule(
        _names,
        {"N": COUNT},
        impossible=lambda k: "" if k["N"] <= len(PERSON_NAMES) else f"the list has {len(PERSON_NAMES)} names",
    ),
    "count:numbers": InstructionRule(lambda text, k: len(_NUMBER.findall(text)) == k["N"], {"N": COUNT}),
    "count:punctuation": InstructionRule(_punctuation),
    "count:words_japanese": InstructionRule(_japanese, {"N": COUNT}, impossible=_from_one("N")),
    "count:pronouns": InstructionRule(_pronouns, {"N": COUNT}),
    "count:keywords_multiple": InstructionRule(
        _multiple_keywords,
        dict.fromkeys(KEYWORD_COUNTS, TEXT),
        lenient=_multiple_inside,
        impossible=different(*KEYWORD_COUNTS),
    ),
    "ratio:stop_words": InstructionRule(_stop_words, {"percentage": PERCENT}),
    "ratio:sentence_type": InstructionRule(_two_to_one),
    "ratio:sentence_balance": InstructionRule(_balanced),
    "ratio:overlap": InstructionRule(_overlap, {"reference_text": TEXT, "percentage": PERCENT}),
    "ratio:sentence_words": InstructionRule(_same_length),
    "words:alphabet": InstructionRule(_alphabet),
    "words:vowel": InstructionRule(_three_vowels),
    "words:consonants": InstructionRule(_clusters),
    "words:palindrome": InstructionRule(
        lambda text, k: _palindromes(text, distinct=True), lenient=lambda text, k: _palindromes(text, distinct=False)
    ),
    "words:prime_lengths": InstructionRule(_prime_lengths),
    "words:repeats": InstructionRule(_repeats, {"small_n": COUNT}, impossible=_from_one("small_n")),
    "words:last_first": InstructionRule(_last_is_first),
    "words:paragraph_last_first": InstructionRule(_paragraph_ends),
    "words:no_consecutive": InstructionRule(_no_consecutive),
    "words:keywords_specific_position": TRAINING_RULES["keywords:keyword_specific_position"],
    "words:words_position": InstructionRule(_second_words, {"keyword": TEXT}),
    "sentence:increment": InstructionRule(_increment, {"small_n": COUNT}),
    "sentence:alliteration_increment": InstructionRule(_alliteration),
    "sentence:keyword": InstructionRule(_keyword_in_sentence, {"word": TEXT, "N": COUNT}, impossible=_from_one("N")),
}
