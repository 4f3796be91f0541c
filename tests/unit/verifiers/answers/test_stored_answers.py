"""Stored texts that stand for a missing answer are refused by every verifier that compares answers."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.api import Verifier
from prolong.verifiers.math import MATH, NUMBER
from prolong.verifiers.stem import STEM

MISSING = [
    *("proof", "Proof.", "notfound", "NotFound", "\\text{not found}", "N/A", "n/a", "None", "null", "NaN", "see solution"),
    *("See the solution.", "$\\text{proof}$", "\\boxed{proof}", "$$", "\\text{}", "\\boxed{}", "-", "?", "[]"),
]


@pytest.mark.parametrize("text", MISSING)
@pytest.mark.parametrize("verifier", [MATH, STEM, NUMBER], ids=["math", "stem", "number"])
def test_a_stand_in_for_a_missing_answer_is_refused(verifier: Verifier, text: str):
    with pytest.raises(DataError, match=r"missing answer|plain number"):
        verifier.check({"answer": text})


@pytest.mark.parametrize("verifier", [MATH, STEM], ids=["math", "stem"])
def test_an_alias_that_stands_for_a_missing_answer_is_refused(verifier: Verifier):
    with pytest.raises(DataError, match="missing answer"):
        verifier.check({"answer": "5 m", "aliases": ["500 cm", "N/A"]})


def test_the_message_names_the_verifier_that_the_prompt_names():
    with pytest.raises(DataError, match="verifier number"):
        NUMBER.check({"answer": None})


@pytest.mark.parametrize(
    "text", ["\\text{none}", "none", "Na", "0", "-1", "\\emptyset", "\\{\\}", "?x", "proof by contradiction"]
)
def test_answers_that_look_like_one_are_kept(text: str):
    MATH.check({"answer": text})
    STEM.check({"answer": text})


@pytest.mark.parametrize("text", ["#### 42", "So 6*7 = 42\n#### 42"])
def test_the_marker_of_gsm8k_is_refused(text: str):
    with pytest.raises(DataError, match="marker"):
        MATH.check({"answer": text})


@pytest.mark.parametrize("text", ["\frac{1}{2}", "\x08oxed{7}"])
def test_commands_that_an_escape_has_eaten_are_refused(text: str):
    with pytest.raises(DataError, match="control characters"):
        MATH.check({"answer": text})
