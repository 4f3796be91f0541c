"""Records of a program as a prompt file."""

import json
from pathlib import Path

import pytest
from prolong.common.config.sections import SourceConfig
from prolong.common.data.prompts import ReadPrompt, read_prompts
from prolong.common.errors import DataError
from prolong.launch.own_prompts import write_own_prompts

from tests.support.character_tokenizer import make_character_tokenizer


def test_a_record_needs_a_prompt_and_the_rest_is_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "train.jsonl"
    records = ({"prompt": f"{i}+1=", "answer": {"sum": i + 1}, "extra": i} for i in range(3))
    assert write_own_prompts(records, file, verifier="near") == 3
    read = [
        prompt.prompt
        for _, prompt in read_prompts(SourceConfig(file=str(file)), make_character_tokenizer(tmp_path))
        if isinstance(prompt, ReadPrompt)
    ]
    assert [(prompt.text, prompt.domain, prompt.task, prompt.verifier) for prompt in read] == [
        (f"{i}+1=", "own", "own", "near") for i in range(3)
    ]
    assert json.loads(read[2].answer) == {"sum": 3}


def test_what_a_record_says_is_kept(tmp_path: Path) -> None:
    record = {"prompt": "?", "domain": "math", "task": "sums", "verifier": "math", "answer": "2", "uid": "mine/1"}
    write_own_prompts([record], tmp_path / "train.jsonl", verifier="near")
    assert json.loads((tmp_path / "train.jsonl").read_text()) == record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("12+7=", "record 2: got '12.7='; expected a mapping with a `prompt`"),
        ({"answer": "2"}, "record 2: .*expected a mapping with a `prompt`"),
        ({"prompt": "?"}, "record 2: expected `verifier`"),
        ({"prompt": "?", "verifier": "math", "answer": {1, 2}}, "record 2: .*expected what JSON can hold"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_and_leaves_no_file(record: object, message: str, tmp_path: Path) -> None:
    good = {"prompt": "?", "verifier": "math", "answer": "1"}
    with pytest.raises(DataError, match=message):
        write_own_prompts([good, record], tmp_path / "train.jsonl")  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_no_records_make_no_file(tmp_path: Path) -> None:
    assert write_own_prompts([], tmp_path / "deep" / "heldout.jsonl") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_begun_keeps_its_prompts(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    write_own_prompts([{"prompt": "1"}], file, verifier="near")
    before = file.read_bytes()
    write_own_prompts([{"prompt": "1"}], file, verifier="near", replace=False)
    with pytest.raises(DataError, match="has other prompts"):
        write_own_prompts([{"prompt": "2"}], file, verifier="near", replace=False)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
