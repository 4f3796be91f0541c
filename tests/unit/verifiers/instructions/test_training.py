"""Texts for each of the 29 instruction types of IF-RLVR: those that follow it, and those that do not."""

import pytest
from prolong.verifiers.instructions.training import TRAINING_RULES

from tests.support.instructions import follows, reward

PHRASE = {"phrase": "the cat sat on the mat", "small_n": 2}
TWO_CHANGED = "the cat lay on the mat. So the cat sat under the mat."
Case = tuple[str, dict[str, object], list[str], list[str]]  # (id, kwargs, texts that follow it, texts that do not)

CASES: list[Case] = [
    (
        "copy:repeat_phrase",
        PHRASE,
        [TWO_CHANGED, "The cat sat near the mat, a dog sat on the mat? No: the cat SAW on the mat."],
        ["the cat lay on the mat", TWO_CHANGED + " the cat sat on the mat", "the dog lay on the mat, the cat sat on a mat"],
    ),
    (
        "copy:copy",
        {"prompt_to_repeat": "Name a river."},
        ["Name a river.", " name  a\nriver. "],
        ["Name a river. The Po.", "Po"],
    ),
    (
        "copy:copying_simple",
        {"prompt_to_repeat": "Sing, now!"},
        ["Sing, now!", "sing, now!"],
        ["Sing now!", "La la", "Sing, now! La"],
    ),
    (
        "copy:copying_multiple",
        {"prompt_to_repeat": "Go.", "N": 3},
        ["Go.\n******\nGo.\n******\nGo.", "go.******go.******go."],
        ["Go.\n******\nGo.", "Go. Go. Go.", "Go.\n******\nGo.\n******\nGone."],
    ),
    (
        "new:copy_span_idx",
        {"prompt_to_repeat": "Describe a cold winter morning.", "n_start": 9, "n_end": 15},
        ["a cold", "A COLD"],
        ["a cold winter", "Describe", "winter"],
    ),
    (
        "detectable_format:sentence_hyphens",
        {},
        ["It rains.-We stay in.", "Is it so?-Yes!-Well-known things are."],
        ["It rains. We stay in.", "It rains.", "It rains.- We stay in.", "one-two-three", "It rains.-We stay. We go."],
    ),
    (
        "detectable_format:square_brackets",
        {},
        ["[It] [rains]", "[It], [rains]!"],
        ["[It rains]", "It rains", "[It] rains", "[] []"],
    ),
    (
        "detectable_format:bigram_wrapping",
        {},
        ["<<I am>> <<at home>>", "<<I am>> <<at home>> <<now>>.", "<<I am>> <<at home>> now", "<<I am>><<at home>>."],
        ["I am at home", "<<I am at>> <<home>>", "<<I am>> at home now", "<<I>> <<am>>", "so <<I am>> <<at home>>"],
    ),
    (
        "keywords:no_adjacent_consecutive",
        {},
        ["cats or boats", "Zebras and 1 2 3"],
        ["a boat", "so Anna (Bob) left", "so tall"],
    ),
    ("keywords:word_once", {"keyword": "sun"}, ["The sun.", "SUN and Sunday"], ["Sun, sun!", "Sunday", "rain"]),
    (
        "keywords:word_count_different_numbers",
        {"keyword": "sun", "frequency": 2},
        ["sun sun", "Sun? The sun!"],
        ["sun", "sun sun sun", "sun sunny"],
    ),
    (
        "keywords:word_count_different_numbers",
        {"keyword": "sun", "frequency": 2, "relation": "at least"},
        ["sun sun", "Sun sun sun"],
        ["sun", "sunsun"],
    ),
    (
        "keywords:exclude_word_harder",
        {"keyword": "art", "instruction": "Write about art."},
        ["We start apart.", "Smart."],
        ["Art is long.", "an art, indeed"],
    ),
    ("keywords:palindrome", {}, ["A level road.", "Step on no pets.", "Radar!"], ["I saw a road.", "So it is.", "ok"]),
    (
        "keywords:keyword_specific_position",
        {"keyword": "sea", "n": 2, "m": 3},
        ["It rains. Look, the Sea is calm.", "One. We like sea."],
        ["It rains. The sea is calm.", "Look the sea. Yes.", "One. Two words."],
    ),
    ("keywords:start_end", {}, ["Rain is only rain", "so it is so"], ["Rain is only rain.", "Rain", "Rain falls"]),
    (
        "paragraphs:paragraphs",
        {},
        ["A.\n***\nB.", "A ***big*** day.\n\n* * *\n\nB."],
        ["A.", "A.\n\nB.", "A.\n***\nB.\n***\nC."],
    ),
    ("paragraphs:paragraphs2", {}, ["A.\n\nB.", "A.\n \nB.", "A\nb.\n\n\n\nB."], ["A.", "A.\nB.", "A.\n\nB.\n\nC."]),
    (
        "first_word:first_word_sent",
        {"first_word": "rain"},
        ["Rain falls. Rain stops!", "**Rain** falls."],
        ["Rain falls. It stops.", "Rainy days. Rain.", "The rain."],
    ),
    ("first_word:first_word_answer", {"first_word": "Rain"}, ["rain, again", "**Rain** falls."], ["Rainy", "The rain"]),
    (
        "last_word:last_word_sent",
        {"last_word": "rain"},
        ["I like rain. Oh, Rain!", "It is *rain*."],
        ["I like rain. I do.", "rainy"],
    ),
    ("last_word:last_word_answer", {"last_word": "rain"}, ["I like rain.", "So: **Rain**!"], ["rain falls", "train"]),
    ("punctuation:punctuation_dot", {}, ["No dots here!", "So (and so)"], ["One.", "1.5", "wait\u2026", "\u597d\u3002"]),
    ("punctuation:punctuation_exclamation", {}, ["No. None?", "ok"], ["Yes!", "\u597d\uff01"]),
    ("count:lowercase_counting", {"N": 2}, ["THE big DOG ran", "LOUD", "a b"], ["the big dog", "So it is so"]),
    (
        "count:counting_composition",
        {"n_sent": 2, "n_words": 3},
        ["I like rain. You like sun.\n* * *\nWe don't go. They go home.\n* * *\nIs it so? It is so!"],
        [
            "I like rain. You like sun.",
            "I like rain. You like sun.\n* * *\nWe go home. They go.\n* * *\nIs it so? It is so!",
            "I like rain.\n***\nWe like rain.\n***\nIs it so?",
        ],
    ),
    (
        "count:count_unique",
        {},
        ["Only new words. Nothing else, friend.", "one"],
        ["the cat and the dog", "The cat saw the dog"],
    ),
    (
        "count:count_increment_word",
        {"keyword1": "sun", "keyword2": "rain"},
        ["Sun, rain and rain.", "rain sun RAIN"],
        ["sun rain", "sun sun rain rain", "sunrain rain", "sun rain rain rain"],
    ),
    ("letters:letter_counting", {"N": 5, "relation": "at least"}, ["a b c d e", "hello 1"], ["abcd", "a b c 1 2 3"]),
    ("letters:letter_counting", {"N": 5, "relation": "less than"}, ["abcd", "1234567"], ["hello"]),
    (
        "letters:letter_counting2",
        {"letter": "e", "let_frequency": 2, "let_relation": "at least"},
        ["See", "e E"],
        ["Set", "ten"],
    ),
]


def test_there_is_a_case_for_every_type():
    assert {name for name, *_ in CASES} == set(TRAINING_RULES)
    assert len(TRAINING_RULES) == 29


def test_letters_alone_are_palindromes_for_the_own_checker_only():
    assert follows("I saw a road.", "keywords:palindrome", strict=False)
    assert not follows("I saw a road.", "keywords:palindrome")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"keyword": "sun", "frequency": 2, "relation": "at least", "num_words": None},
        {"keyword": "sun", "frequency": "2", "relation": "At least"},
        {"keyword": "sun", "frequency": 2.0, "relation": "at least"},
        {"keyword": "sun", "frequency": "2.0", "relation": " at least "},
        '{"keyword": "sun", "frequency": 2, "relation": "at least", "N": null}',
        "{'keyword': 'sun', 'frequency': 2, 'relation': 'at least', 'N': None}",
    ],
)
def test_kwargs_are_read_in_every_form_that_files_hold(kwargs: object):
    assert reward("sun and sun", ("keywords:frequency", kwargs)) == 1.0
    assert reward("sun", ("keywords:frequency", kwargs)) == 0.0


@pytest.mark.parametrize("kwargs", [None, {}, "", "null", "None", "{}", {"num_words": None}])
def test_no_kwargs_may_be_written_in_many_ways(kwargs: object):
    assert reward("A.\n***\nB.", ("paragraphs:paragraphs", kwargs)) == 1.0


def test_a_list_of_texts_may_be_written_as_a_text():
    assert follows("sun and rain", "keywords:existence", {"keywords": "['sun', 'rain']"})
    assert not follows("sun", "keywords:existence", {"keywords": '["sun", "rain"]'})


def test_an_instruction_that_stands_twice_counts_twice():
    asked = [("startend:quotation", {}), ("punctuation:no_comma", None), ("startend:quotation", {})]
    assert reward("rain", *asked) == pytest.approx(1 / 3)
    assert reward('"rain"', *asked) == 1.0
