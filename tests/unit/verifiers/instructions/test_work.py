"""Every rule is linear in the text: what the policy writes cannot stall a worker."""

import time

import pytest
from prolong.verifiers.api import Task
from prolong.verifiers.instructions.rules import RULES
from prolong.verifiers.instructions.verifier import INSTRUCTIONS, MAX_TEXT_CHARS

from tests.unit.verifiers.instructions.test_rules import CASES

KWARGS = {case[0]: case[1] for case in CASES}
UNITS = ["[", "*", "<", "\n", ".", "P.", "- ", '"', "a ", "Section ", "a.", "<<>", "*a", "******", "A\n\n", " ", "* * *", "("]
UNITS += ["<<a b>> ", "'\"", "\U0001f600 ", "7,", "the cat on the mat ", "Question", "* a\n", "\n \n", '"$']
CHARS = 40_000  # a quadratic rule takes 1,600,000,000 steps, which is more than ten seconds even inside a regular expression
SECONDS_OF_CPU = 4.0  # of all rules together; they take a tenth of it


@pytest.fixture(scope="module", autouse=True)
def _languages():
    INSTRUCTIONS.load()


def test_every_rule_is_among_them():
    assert set(KWARGS) == set(RULES)


@pytest.mark.parametrize("unit", UNITS)
def test_hostile_texts_are_judged_in_linear_time(unit: str):
    text = unit * (CHARS // len(unit)) + "x"
    began = time.process_time()
    for name, kwargs in KWARGS.items():
        INSTRUCTIONS.score(Task(completion=text, answer={"instructions": [{"id": name, "kwargs": kwargs}]}))
    assert time.process_time() - began < SECONDS_OF_CPU


def test_a_longer_text_than_any_answer_is_not_read():
    scored = INSTRUCTIONS.score(Task(completion="a " * MAX_TEXT_CHARS, answer={"instructions": [{"id": "format:emoji"}]}))
    assert (scored.reward, scored.status) == (0.0, "input_rejected")
