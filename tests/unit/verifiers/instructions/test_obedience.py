"""Completions made for stored instructions earn what they are made to earn: 1 for the obedient one, less for the other."""

import random
from collections.abc import Mapping, Sequence

import pytest
from prolong.common.json_object import JsonObject
from prolong.verifiers.api import Task
from prolong.verifiers.instructions.languages import SAMPLES
from prolong.verifiers.instructions.obedience import disobeying_text
from prolong.verifiers.instructions.text import LANGUAGES
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.unit.verifiers.instructions.test_rules import CASES

ASKED = [case[:2] for case in CASES]
Asked = tuple[str, dict[str, object]]
TOGETHER: list[list[Asked]] = [  # as data sets have them
    [("detectable_format:title", {}), ("punctuation:no_comma", {})],
    [
        ("paragraphs:paragraphs", {}),
        ("detectable_format:title", {}),
        ("length_constraints:number_words", {"num_words": 204, "relation": "less than"}),
    ],
    [
        ("keywords:existence", {"keywords": ["river", "salt"]}),
        ("length_constraints:number_words", {"num_words": 300, "relation": "at least"}),
    ],
    [
        ("change_case:english_lowercase", {}),
        ("keywords:forbidden_words", {"forbidden_words": ["day", "sky"]}),
        ("startend:end_checker", {"end_phrase": "That is all."}),
    ],
    [
        ("startend:quotation", {}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ],
    [
        ("combination:repeat_prompt", {"prompt_to_repeat": "Name a river. Explain it, please."}),
        ("keywords:frequency", {"keyword": "delta", "frequency": 4, "relation": "at least"}),
    ],
    [
        ("first_word:first_word_sent", {"first_word": "Rain"}),
        ("last_word:last_word_sent", {"last_word": "sea"}),
        ("length_constraints:number_sentences", {"num_sentences": 5, "relation": "at least"}),
    ],
    [
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 4, "nth_paragraph": 3, "first_word": "later"}),
        ("keywords:word_once", {"keyword": "moon"}),
    ],
    [("language:response_language", {"language": "sw"}), ("detectable_format:title", {})],
    [
        ("combination:two_responses", {}),
        ("punctuation:no_comma", {}),
        ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "less than"}),
    ],
]


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


def specification(asked: Sequence[tuple[str, Mapping[str, object]]]) -> JsonObject:
    return {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in asked]}


def earned(text: str | None, answer: JsonObject) -> float | None:
    return INSTRUCTIONS.score(Task(completion=text, answer=answer)).reward if text else None


@pytest.mark.parametrize("asked", [*([one] for one in ASKED), *TOGETHER], ids=str)
def test_the_obedient_text_earns_1_and_the_other_less(asked: list):
    answer = specification(asked)
    assert earned(INSTRUCTIONS.gold(answer), answer) == 1.0
    other = earned(disobeying_text(answer), answer)
    assert other is not None
    assert other == 0.0 if len(asked) == 1 else other < 1.0


def test_a_text_made_for_any_two_or_three_instructions_obeys_them():
    chosen = random.Random(5)
    made = 0
    for _ in range(300):
        answer = specification(chosen.sample(ASKED, chosen.choice([2, 3])))
        text = INSTRUCTIONS.gold(answer)
        assert text is None or earned(text, answer) == 1.0, answer
        assert earned(disobeying_text(answer), answer) != 1.0
        made += text is not None
    assert made > 100


def test_the_samples_are_in_their_languages():
    assert set(SAMPLES) == set(LANGUAGES)
    asked = [("language:response_language", {"language": code}) for code in SAMPLES]
    answers = [specification([one]) for one in asked]
    assert [answer for answer in answers if earned(INSTRUCTIONS.gold(answer), answer) != 1.0] == []


@pytest.mark.parametrize(
    "asked",
    [
        [("change_case:english_capital", {}), ("change_case:english_lowercase", {})],
        [("language:response_language", {"language": "fi"}), ("copy:copy", {"prompt_to_repeat": "Sing."})],
        [("language:response_language", {"language": "fi"}), ("language:response_language", {"language": "ru"})],
        [("keywords:existence", {"keywords": ["rain"]}), ("keywords:forbidden_words", {"forbidden_words": ["rain"]})],
    ],
)
def test_where_no_text_is_known_none_is_made(asked: list):
    assert INSTRUCTIONS.gold(specification(asked)) is None
