from typing import Any

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.api import Task
from prolong.verifiers.stem import STEM, kind_of


@pytest.fixture(scope="module")
def loaded() -> None:
    STEM.load()


def reward(answer: dict[str, Any], completion: str) -> float | None:
    score = STEM.quick(Task(completion=completion, answer=answer))
    return score and score.reward


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"answer": "3.2e-3", "unit": "m/s"}, "number"),
        ({"answer": 42}, "number"),
        ({"answer": "$2.5 \\times 10^{3}$ J"}, "number"),
        ({"answer": "\\boxed{0.75\\text{ A}}"}, "number"),
        ({"answer": "pH = 4.74"}, "number"),
        ({"answer": "B"}, "choice"),
        ({"answer": "(D)"}, "choice"),
        ({"answer": "$E = mc^2$"}, "formula"),
        ({"answer": "The period is $T = 2\\pi\\sqrt{L/g}$."}, "formula"),
        ({"answer": "H2O"}, "formula"),
        ({"answer": "photosynthesis"}, "text"),
        ({"answer": "B", "kind": "text"}, "text"),
    ],
)
def test_the_kind_is_read_off_the_stored_answer(answer: dict[str, Any], kind: str):
    STEM.check(answer)
    assert kind_of(answer) == kind


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "expected"),
        ({"answer": " "}, "expected"),
        ({"answer": True}, "expected"),
        ({"answer": "5", "units": "m"}, "unknown keys"),
        ({"answer": "5", "unit": "parsnips"}, "SI or common units"),
        ({"answer": "5", "unit": 5}, "SI or common units"),
        ({"answer": "5", "rel_tol": -1}, "rel_tol"),
        ({"answer": "5", "abs_tol": float("inf")}, "abs_tol"),
        ({"answer": "5", "rel_tol": "0.1"}, "rel_tol"),
        ({"answer": "5", "unit_optional": 1}, "unit_optional"),
        ({"answer": "5", "kind": "numeral"}, "kind"),
        ({"answer": "mc^2", "kind": "number"}, "plain number"),
        ({"answer": "water", "kind": "choice"}, "letter of a choice"),
        ({"answer": "C", "choices": {"A": "1", "B": "2"}}, "letter of a choice"),
        ({"answer": "A", "choices": {"A": 1}}, "texts by letter"),
        ({"answer": "water", "aliases": [3]}, "list of texts"),
        ({"answer": "water", "aliases": "H2O"}, "list of texts"),
        ({"answer": "A", "choices": ["1"]}, "texts by letter"),
    ],
)
def test_an_answer_that_cannot_be_judged_is_refused_with_a_sentence(answer: dict[str, Any], says: str):
    with pytest.raises(DataError, match=f"verifier stem: .*{says}"):
        STEM.check(answer)


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("120", "120.0", "120.1"),  # a plain integer is exact
        ("120 m", "121\\text{ m}", "122\\text{ m}"),  # 1 % with a unit
        ("2.0", "2.049", "2.051"),  # half of the last of two digits
        ("0.3", "0.303", "0.304"),  # one digit: 1 %
        ("6.02e23", "6.07e23", "6.09e23"),
    ],
)
def test_default_tolerances(gold: str, right: str, wrong: str):
    assert reward({"answer": gold}, f"\\boxed{{{right}}}") == 1.0
    assert reward({"answer": gold}, f"\\boxed{{{wrong}}}") == 0.0


def test_given_tolerances_replace_the_default_ones():
    assert reward({"answer": "2.0", "abs_tol": 0}, "\\boxed{2.01}") == 0.0
    assert reward({"answer": "200", "rel_tol": 0.1}, "\\boxed{219}") == 1.0
    assert reward({"answer": "200", "rel_tol": 0.1, "abs_tol": 30}, "\\boxed{229}") == 1.0


def test_a_missing_unit_is_wrong_unless_the_answer_allows_it():
    assert reward({"answer": "5", "unit": "m"}, "\\boxed{5}") == 0.0
    assert reward({"answer": "5", "unit": "m", "unit_optional": True}, "\\boxed{5}") == 1.0
    assert reward({"answer": "5", "unit": "m", "unit_optional": True}, "\\boxed{5\\text{ s}}") == 0.0
    assert reward({"answer": "5"}, "\\boxed{5\\text{ m}}") == 1.0  # the stored answer asks for none


def test_the_last_box_wins_over_a_tag_and_the_thinking_counts_for_nothing():
    assert reward({"answer": "B"}, "<think>\\boxed{B}</think>") == 0.0
    assert reward({"answer": "B"}, "<answer>B</answer>") == 1.0
    assert reward({"answer": "B"}, "\\boxed{C} <answer>B</answer>") == 0.0
    assert reward({"answer": "B"}, "the answer is B") == 0.0
    assert reward({"answer": "B"}, "\\boxed{" + "B" * 5000 + "}") == 0.0


def test_what_takes_algebra_is_left_open():
    assert reward({"answer": "1.414", "rel_tol": 0.001}, "\\boxed{\\sqrt{2}}") is None
    assert reward({"answer": "\\frac{1}{2}mv^2"}, "\\boxed{0.5mv^2}") is None


def test_an_alias_is_as_good_as_the_answer():
    answer = {"answer": "sodium chloride", "aliases": ["NaCl", "table salt"]}
    assert [reward(answer, f"\\boxed{{{text}}}") for text in ("NaCl", "Table salt", "KCl", "salt")] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.usefixtures("loaded")
def test_probe_needs_no_completion():
    STEM.probe({"answer": "\\sqrt{2gh}"})
