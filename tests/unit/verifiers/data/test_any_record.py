"""Records of any content: each becomes a prompt or is left out with a reason; nothing else is ever raised."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prolong.common.json_object import JsonObject
from prolong.launch.data.convert import ConvertSettings, converted
from prolong.verifiers.data.fields import LeftOut
from prolong.verifiers.data.shapes import FAMILIES, SHAPES, convert_record

RECORDS = [
    json.loads(line)["record"]
    for line in (Path(__file__).parents[3] / "data" / "public_sets" / "records.jsonl").read_text().splitlines()
]
COLUMNS = sorted({column for record in RECORDS for column in record})
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["[1, 2]", "{'a': 1}", '{"inputs": [1]}', "####", "\\boxed{", "proof", "\ud83d"])
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=8
)


def is_prompt_or_left_out(record: JsonObject, family: str = "", *, judge: bool = False) -> None:
    outcome = converted(record, ConvertSettings(family=family, judge=judge))
    if isinstance(outcome, LeftOut):
        assert outcome.reason
        return
    made = outcome.made
    line = json.dumps(made.record("u"), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(line)["answer"] == made.answer
    assert made.prompt.strip()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6), st.sampled_from(["", *FAMILIES]))
def test_columns_of_public_sets_with_any_content(record: JsonObject, family: str) -> None:
    is_prompt_or_left_out(record, family)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(RECORDS), st.data())
def test_records_of_public_sets_with_one_column_replaced(record: JsonObject, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(sorted(record)))
    is_prompt_or_left_out(record | {column: data.draw(VALUES)}, judge=data.draw(st.booleans()))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([record for record in RECORDS if "reward_model" in record]), VALUES)
def test_any_ground_truth(record: JsonObject, truth: object) -> None:
    is_prompt_or_left_out(record | {"reward_model": {"ground_truth": truth}})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "?", "answer": None}, "columns of no known shape"),
        ({"problem": "?", "answer": None}, "no answer"),
        ({"problem": "?", "answer": float("nan")}, "no answer"),
        ({"problem": "?", "answer": float("inf")}, "not a finite number"),
        ({"problem": "?", "answer": True}, "neither a text nor a number"),
        ({"problem": "", "answer": "1"}, "no question"),
        ({"problem": "?", "answer": "N/A"}, "a word in place of an answer"),
        ({"problem": "?", "answer": "\\text{notfound}"}, "a word in place of an answer"),
        ({"problem": "half \ud83d", "answer": "1"}, "half of a surrogate pair"),
        ({"problem": "?", "solution": "\\boxed{1} or \\boxed{2}"}, "several different boxes"),
        ({"prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": []}}, "no ground_truth"),
        ({"prompt": [{"role": "system", "content": "?"}], "reward_model": {"ground_truth": "1"}}, "no message of the user"),
        ({"problem": "?", "answer": "1", "images": [{"bytes": "x"}]}, "a question about a picture"),
        ({"question": "?", "choices": ["a", "b"], "answer": 7}, "the answer is none of the choices"),
        ({"question": "?", "input_output": "{not json"}, "not JSON"),
        ({"question": "?", "input_output": '{"inputs": [1], "outputs": []}'}, "holds no tests"),
        ({"prompt": "?", "instruction_id_list": ["no:such"], "kwargs": [{}]}, "cannot judge its answer"),
        ({"question": "?", "answer": None, "metadata": {"source_dataset": "rush_hour"}}, "cannot read"),
    ],
)
def test_what_cannot_be_used_is_left_out_for_a_reason_that_can_be_counted(record: JsonObject, reason: str) -> None:
    outcome = converted(record, ConvertSettings())
    assert isinstance(outcome, LeftOut)
    assert reason in outcome.reason


def test_deep_nesting_is_a_reason_and_no_crash() -> None:
    deep: object = "1"
    for _ in range(5000):
        deep = [deep]
    for record in ({"problem": "?", "answer": deep}, {"prompt": "?", "reward_model": {"ground_truth": deep}}):
        assert isinstance(converted(record, ConvertSettings()), LeftOut)


def test_arrays_of_parquet_readers_are_lists() -> None:
    truth = np.array([np.array([1, 0]), np.array([0, 1])], dtype=object)
    prompt = np.array([{"role": "user", "content": "Turn it."}], dtype=object)
    record = {
        "data_source": "logic__arcagi1",
        "prompt": prompt,
        "ability": "logical_reasoning",
        "reward_model": {"ground_truth": truth},
    }
    assert convert_record(record).made.answer == {"value": [[1, 0], [0, 1]]}
    roots = np.array(["3", "-3"], dtype=object)
    several = {"prompt": prompt, "ability": "math", "reward_model": {"ground_truth": roots}}
    assert convert_record(several).made.answer == {"answer": "3", "aliases": ["-3"]}


def test_names_of_shapes_are_unique() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)
