"""Every text of the cases beside this file follows its instruction or not, and what no text can follow is refused."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.api import Task
from prolong.verifiers.instructions.rules import RULES
from prolong.verifiers.instructions.verifier import INSTRUCTIONS

from tests.support.instructions import follows
from tests.unit.verifiers.instructions import test_forms, test_ifbench, test_training, test_verifier

CASES = (*test_verifier.CASES, *test_training.CASES, *test_ifbench.CASES)
THREE_SUNS = dict.fromkeys(["keyword1", "keyword2", "keyword3"], "sun")


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


def test_every_type_has_texts_of_both_kinds():
    for texts in (2, 3):
        assert {case[0] for case in CASES if case[texts]} == set(RULES)


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), [*CASES, *test_forms.CASES])
def test_a_text_follows_its_instruction_or_not(name: str, kwargs: dict, good: list[str], bad: list[str]):
    assert [text for text in good if not follows(text, name, kwargs)] == []
    assert [text for text in bad if follows(text, name, kwargs)] == []


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "<think>My answer is yes.</think>", "<think>level", "ok</think>  ", "\u200b", "\ufeff\u2060 \u0301"],
)
def test_an_empty_text_follows_nothing(text: str):
    for name, kwargs, *_ in CASES:
        scored = INSTRUCTIONS.score(Task(completion=text, answer={"instructions": [{"id": name, "kwargs": kwargs}]}))
        assert (scored.reward, scored.status) == (0.0, "no_answer"), name


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("count:word_count_range", {"min_words": 9, "max_words": 3}),
        ("count:conjunctions", {"small_n": 8}),
        ("count:person_names", {"N": 51}),
        ("count:words_japanese", {"N": 0}),
        ("count:keywords_multiple", THREE_SUNS | {"keyword4": "Sun ", "keyword5": "sea"}),
        ("count:count_increment_word", {"keyword1": "sun", "keyword2": "SUN"}),
        ("words:repeats", {"small_n": 0}),
        ("words:keywords_specific_position", {"keyword": "sea", "n": 0, "m": 3}),
        ("keywords:keyword_specific_position", {"keyword": "sea", "n": 2, "m": 0}),
        ("keywords:keyword_specific_position", {"keyword": "deep sea", "n": 2, "m": 3}),
        ("sentence:keyword", {"word": "sea", "N": 0}),
        ("format:options", {"options": "yes"}),
        ("repeat:repeat_span", {"prompt_to_repeat": "one two", "n_start": 5, "n_end": 9}),
    ],
)
def test_what_no_text_can_follow_is_refused(name: str, kwargs: dict):
    with pytest.raises(DataError, match="can never be followed"):
        INSTRUCTIONS.check({"instructions": [{"id": name, "kwargs": kwargs}]})
