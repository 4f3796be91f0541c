"""The sample files of tests/data, made by us after the columns of the public data sets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prolong.common.errors import DataError
from prolong.verifiers import code, math, stem
from prolong.verifiers.data.requests import BOX
from prolong.verifiers.data.shapes import convert_record
from prolong.verifiers.instructions import verifier as instructions
from prolong.verifiers.logic import reasoning_gym as logic
from prolong.verifiers.registry import VERIFIERS

DATA = Path(__file__).parents[3] / "data"


def converted(file: str, name: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (DATA / file).read_text().splitlines()]
    return [as_told(record, name) for record in records]


def as_told(record: dict[str, Any], name: str) -> dict[str, Any]:
    return convert_record(record, name).made.record("")


def test_deepscaler_becomes_math_in_a_box():
    first, second, third = converted("deepscaler.jsonl", "deepscaler")
    assert first["prompt"] == "A train covers 84 km in 70 minutes. What is its average speed in km/h?" + BOX
    assert [record["answer"] for record in (first, second, third)] == [
        {"answer": "72"},
        {"answer": "4\\sqrt{3}"},
        {"answer": "\\frac{1}{6}"},
    ]
    for record in (first, second, third):
        assert (record["domain"], record["task"], record["verifier"]) == ("math", "deepscaler", "math")
        math.MATH.check(record["answer"])


def test_eurus_mathematics_keeps_its_own_words_and_loses_the_system_message():
    record = converted("eurus.jsonl", "eurus")[0]
    assert record["prompt"].startswith("How many diagonals")
    assert record["prompt"].count("\\boxed") == 1
    assert (record["domain"], record["task"], record["answer"]) == ("math", "numina_olympiads", {"answer": "14"})


def test_eurus_code_reads_standard_input_or_calls_a_function():
    _, streams, function = converted("eurus.jsonl", "eurus")
    assert (streams["domain"], streams["verifier"], streams["task"]) == ("code", "code", "taco")
    assert streams["answer"]["tests"] == [{"stdin": "3\n", "stdout": "9\n"}, {"stdin": "10\n", "stdout": "100\n"}]
    assert "standard input" in streams["prompt"]
    assert "```python" in streams["prompt"]
    assert function["answer"]["function"] == "mirror"
    assert function["answer"]["tests"] == [{"args": ["abc"], "output": "cba"}, {"args": ["x"], "output": "x"}]
    assert "`mirror`" in function["prompt"].removeprefix("Write `mirror`")


def test_scp116k_takes_the_box_a_bare_answer_or_the_answer_column():
    boxed, bare, column = converted("scp116k.jsonl", "scp116k")
    assert [record["answer"]["answer"] for record in (boxed, bare, column)] == ["10 \\text{ m/s}", "+7", "mitochondrion"]
    assert [(record["domain"], record["task"]) for record in (boxed, bare)] == [("stem", "physics"), ("stem", "chemistry")]


def test_instructions_lose_their_nulls_and_pass_the_verifiers_check():
    rain, harbour = converted("ifeval.jsonl", "ifeval")
    (rivers,) = converted("llama_nemotron.jsonl", "ifeval")
    assert harbour["answer"]["instructions"] == [
        {"id": "length_constraints:number_words", "kwargs": {"num_words": 30, "relation": "at least"}},
        {"id": "keywords:existence", "kwargs": {"keywords": ["tide"]}},
    ]
    assert rivers["prompt"].startswith("Name three rivers")
    assert rivers["answer"]["instructions"] == [{"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 3}}]
    for record in (rain, harbour, rivers):
        instructions.INSTRUCTIONS.check(record["answer"])


def test_an_entry_of_reasoning_gym_keeps_what_its_scorer_needs():
    entry = {
        "question": "Spell planet backward",
        "answer": "tenalp",
        "metadata": {"source_dataset": "spell_backward", "word": "planet"},
    }
    for metadata in (entry["metadata"], json.dumps(entry["metadata"])):
        record = as_told(entry | {"metadata": metadata}, "reasoning_gym")
        assert record["answer"] == {
            "dataset": "spell_backward",
            "entry": {"answer": "tenalp", "metadata": {"source_dataset": "spell_backward", "word": "planet"}},
        }
        logic.REASONING_GYM.check(record["answer"])
    assert "<answer>" in record["prompt"]
    assert logic.REASONING_GYM.gold(record["answer"]) == "<answer>tenalp</answer>"


@pytest.mark.parametrize(
    ("name", "record", "sentence"),
    [
        ("deepscaler", {"problem": "?"}, "answer = None"),
        ("deepscaler", {"problem": " ", "answer": "1"}, "problem = ' '"),
        ("deepscaler", {"problem": "?", "answer": True}, "answer = True"),
        ("eurus", {"prompt": [1], "ability": "math"}, "expected chat messages"),
        ("eurus", {"prompt": "text", "ability": "math"}, "no ground_truth"),
        ("", {"title": "a", "body": "b"}, "columns of no known shape: it has title, body"),
        ("eurus", {"prompt": [{"role": "user", "content": "?"}], "ability": "math"}, "ground_truth"),
        (
            "eurus",
            {"prompt": [{"role": "user", "content": "?"}], "ability": "song", "reward_model": {"ground_truth": "la"}},
            "no rule for the ability 'song'",
        ),
        (
            "eurus",
            {"prompt": [{"role": "user", "content": "?"}], "ability": "code", "reward_model": {"ground_truth": "print(1)"}},
            "is not JSON",
        ),
        (
            "eurus",
            {
                "prompt": [{"role": "user", "content": "?"}],
                "ability": "code",
                "reward_model": {"ground_truth": '{"inputs": [1]}'},
            },
            "two lists of one length",
        ),
        ("scp116k", {"problem": "?", "matched_solution": "It follows.\nAs was to be shown."}, "no final answer"),
        ("scp116k", {"problem": "?"}, "no final answer"),
        ("reasoning_gym", {"question": "?", "answer": "1", "metadata": {}}, "source_dataset"),
        ("ifeval", {"prompt": "?", "instruction_id_list": ["a", "b"], "kwargs": [{}]}, "two lists of one length"),
        ("ifeval", {"prompt": "?", "instruction_id_list": ["a"], "kwargs": ["x"]}, "expected an object"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(name: str, record: dict, sentence: str):
    with pytest.raises(DataError, match=re.escape(sentence)):
        convert_record(record, name)


def test_the_gold_completion_is_made_of_the_stored_answer_where_that_tells_one():
    assert code.CODE.gold({"tests": []}) is None
    for boxing in (math.MATH, math.NUMBER, stem.STEM):
        assert boxing.gold({"answer": "\\boxed{5}"}) == boxing.gold({"answer": 5}) == "\\boxed{5}"
    assert logic.REASONING_GYM.gold({"dataset": "x", "entry": {"answer": None}}) is None


def test_every_sample_can_be_judged_by_the_verifier_that_it_names():
    samples = [(path, "ifeval" if path.stem == "llama_nemotron" else path.stem) for path in sorted(DATA.glob("*.jsonl"))]
    records = [record for path, name in samples for record in converted(path.name, name)]
    assert {record["verifier"] for record in records} == set(VERIFIERS) - {"number", "json", "judge"}
    for record in records:
        VERIFIERS[record["verifier"]].check(record["answer"])


def test_an_answer_of_zero_is_an_answer():
    record = {"domain": "Physics", "problem": "Net force?", "answer": 0, "matched_solution": "\\boxed{1}"}
    assert as_told(record, "scp116k")["answer"] == {"answer": 0}
    assert as_told(record | {"answer": ""}, "scp116k")["answer"] == {"answer": "1"}


def test_open_answers_are_left_out_or_given_to_a_model():
    record = {"question": "Why do firms exist?", "answer": "Because markets have costs of search that a hierarchy can avoid"}
    with pytest.raises(DataError, match="an open answer"):
        convert_record(record)
    made = convert_record(record, judge=True).made
    assert (made.verifier, made.prompt) == ("judge", record["question"] + BOX)
    assert made.answer == {"answer": record["answer"], "question": record["question"]}
