import time

import pytest
from prolong.verifiers.answers.extraction import after_thinking, last_boxed, last_number, last_tagged, separate_boxes
from prolong.verifiers.api import Task


def text_of(completion: str, *, thinking_open: bool = False) -> str:
    return after_thinking(Task(completion=completion, answer={}, thinking_open=thinking_open))


def test_only_the_text_behind_the_thinking_counts():
    assert text_of("<think>\\boxed{1}</think>\\boxed{2}") == "\\boxed{2}"
    assert text_of("\\boxed{2}") == "\\boxed{2}"
    assert text_of("a</think>b</think>c") == "c"


def test_thinking_that_never_ended_holds_no_answer():
    assert text_of("<think>so it is \\boxed{1}") == ""
    assert text_of("so it is \\boxed{1}", thinking_open=True) == ""
    assert text_of("so it is \\boxed{1}</think>\\boxed{2}", thinking_open=True) == "\\boxed{2}"


def test_thinking_that_is_opened_again_does_not_count():
    assert text_of("<think>a</think>\\boxed{1}<think>\\boxed{2}") == "\\boxed{1}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>5</answer> stands before </answer>", "5"),
        ("<answer>5</answer> <answer>6</answer>", "6"),
        ("<answer>5</answer> <answer>6", "5"),
        ("</answer> <answer>", None),
    ],
)
def test_the_last_complete_tag_ends_where_it_is_closed_first(text: str, answer: str | None):
    assert last_tagged(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"), [("it is -5", "-5"), ("10-5", "5"), ("(3)-4", "4"), ("x=-1,234.5.", "-1,234.5"), ("- 7", "7")]
)
def test_a_minus_between_two_things_is_no_sign(text: str, answer: str):
    assert last_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{ 7 }", "7"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("}}\\boxed{3}{", "3"),
        ("{\\boxed{3}", "3"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("boxed{5}", None),
        ("\\boxed 5", "5"),
        ("\\boxed5.", "5"),
        ("\\boxed -1,234.5 km", "-1,234.5"),
        ("\\boxed\\frac12", "\\frac12"),
        ("\\boxed C", "C"),
        ("\\boxed and", None),
        ("\\boxed{7} is what stands in \\boxed", "7"),
        ("\\framebox{7}", "7"),
        ("\\boxedness{7}", None),
        ("\\\\boxed{5}", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, answer: str | None):
    assert last_boxed(text) == answer


def test_a_box_in_a_box_is_one_box():
    assert separate_boxes("\\boxed{\\boxed{3}} and \\boxed{4}, \\boxed 5") == ["3", "4", "5"]
    assert separate_boxes("\\boxed{1}" * 41) == []


def test_extraction_is_linear_in_hostile_text():
    hostile = ["\\boxed{" * 100_000, "\\boxed{" * 50_000 + "}" * 50_000, "{" * 300_000, "<answer>" * 50_000, "1," * 200_000]
    began = time.process_time()
    for text in hostile:
        last_boxed(text)
        separate_boxes(text)
        last_tagged(text)
        last_number(text)
    assert time.process_time() - began < 5


def test_the_last_complete_tag_is_the_answer():
    assert last_tagged("<answer>1</answer> <answer> 2 </answer>") == "2"
    assert last_tagged("<answer>1</answer> <answer>2") == "1"
    assert last_tagged("<answer>a<answer>b</answer>") == "b"
    assert last_tagged("</answer><answer>") is None
    assert last_tagged("answer") is None


def test_the_last_number_is_found():
    assert last_number("from 3 to 1,234.5, at most") == "1,234.5"
    assert last_number("so -7.") == "-7"
    assert last_number("none") is None
