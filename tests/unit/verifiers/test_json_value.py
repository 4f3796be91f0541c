"""The verifier `json`: values that are the same however they are written, and values that are not."""

import pytest
from prolong.common.errors import DataError
from prolong.verifiers.api import Task
from prolong.verifiers.json_value import JSON

GRID = {"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]]}


def reward(value: object, completion: str) -> float:
    JSON.check({"value": value})
    score = JSON.quick(Task(completion=completion, answer={"value": value}))
    assert score is not None
    return score.reward


@pytest.mark.parametrize(
    ("value", "completion"),
    [
        (GRID, '<answer>{"rows": [[1, "ann"], ["2", " Bo "]], "header": ["House", "Name"]}</answer>'),
        (GRID, "<answer>{'header': ['House', 'Name'], 'rows': [['1', 'Ann'], ['2', 'Bo']]}</answer>"),
        (GRID, '```json\n{"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]]}\n```'),
        (GRID, '<answer>\n```json\n{"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]]}\n```\n</answer>'),
        ([[1, 0], [0, 1]], "<think>[[1]]</think> <answer>[[1,0],[0,1]]</answer>"),
        ("cba", "\\boxed{'cba'}"),
        ("a b", "<answer>A b</answer>"),
        ("2", "<answer>2.0</answer>"),
        (True, "<answer>true</answer>"),
        ([1, 2], "<answer>(1, 2)</answer>"),
    ],
)
def test_the_value_is_right_in_other_spellings(value: object, completion: str) -> None:
    assert reward(value, completion) == 1.0


@pytest.mark.parametrize(
    ("value", "completion"),
    [
        (GRID, "<answer>{}</answer>"),
        (GRID, '<answer>{"header": ["House", "Name"], "rows": [["1", "Bo"], ["2", "Ann"]]}</answer>'),
        (GRID, '<answer>{"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]], "x": 1}</answer>'),
        (GRID, '{"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]]}'),
        ([[1, 0]], "<answer>[[1, 0], [1, 0]]</answer>"),
        ([1, 2], "<answer>[2, 1]</answer>"),
        ([1], "<answer>1</answer>"),
        (True, "<answer>1</answer>"),
        ("a", "<answer>['a']</answer>"),
        ([1], "<answer>" + "[" * 20_000 + "</answer>"),
        ([1], "<answer>__import__('os')</answer>"),
        ([1], "<think><answer>[1]</answer>"),
        ([1], "<answer>" + "1," * 40_000 + "</answer>"),
    ],
)
def test_another_value_earns_nothing(value: object, completion: str) -> None:
    assert reward(value, completion) == 0.0


@pytest.mark.parametrize("answer", [{}, {"value": None}, {"value": ""}, {"value": []}, {"value": 1, "x": 2}, {"answer": 1}])
def test_an_answer_without_a_value_is_refused(answer: dict) -> None:
    with pytest.raises(DataError, match="verifier json"):
        JSON.check(answer)


def test_the_gold_completion_earns_one() -> None:
    for value in (GRID, [1, "a"], "a b", 7, True):
        gold = JSON.gold({"value": value})
        assert gold
        assert reward(value, gold) == 1.0
    assert JSON.probe({"value": [1]})
