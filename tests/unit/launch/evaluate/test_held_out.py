"""The prompts of an evaluation: prompt files as they are, public sets by their columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from prolong.common.config.sections import SourceConfig
from prolong.common.config.verifiers import VerifiersConfig
from prolong.common.errors import DataError
from prolong.common.tokenizer import Tokenizer
from prolong.launch.evaluate.held_out import read_held_out

from tests.support.tiny_model import make_tiny_model

OWN = {"prompt": "2+3=", "domain": "math", "task": "sum", "verifier": "math", "answer": "5"}
PUZZLE = {"question": "What is 1+1?", "answer": "2", "metadata": {"source_dataset": "chain_sum", "expression": "1 + 1"}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(str(make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)))


def lines(path: Path, *records: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def sources(*files: Path) -> list[SourceConfig]:
    return [SourceConfig(file=str(file)) for file in files]


def test_prompt_files_and_public_sets_stand_side_by_side(tmp_path: Path, tokenizer: Tokenizer) -> None:
    own = lines(tmp_path / "own.jsonl", OWN)
    aime = lines(tmp_path / "aime.jsonl", {"Problem": "2+3?", "Answer": 5}, {"Problem": "prove it", "Answer": "proof"})
    found = read_held_out(sources(own, aime), tokenizer, 400, VerifiersConfig(), tmp_path / "out")
    assert [(prompt.domain, prompt.task) for prompt in found.prompts] == [("math", "sum"), ("math", "aime")]
    assert "boxed" in found.prompts[1].text
    assert [sum(reasons.values()) for reasons in found.left_out.values()] == [1]


def test_the_prompts_of_a_set_are_messages_where_the_model_has_a_chat_template(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chat = make_tiny_model(tmp_path / "chat", tied=True)
    config = json.loads((chat / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
    (chat / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    file = lines(tmp_path / "sums.jsonl", {"question": "2+3?", "answer": "#### 5"})
    found = read_held_out(sources(file), Tokenizer.load(str(chat)), 400, VerifiersConfig(), tmp_path / "out")
    assert found.prompts[0].text.startswith("<user>2+3?")
    assert found.prompts[0].text.endswith("<assistant>")
    bare = read_held_out(sources(file), tokenizer, 400, VerifiersConfig(), tmp_path / "out")
    assert bare.prompts[0].text.startswith("2+3?")


def test_only_the_first_prompts_of_each_file_are_taken(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = [lines(tmp_path / f"{name}.jsonl", *({**OWN, "uid": f"{name}{i}"} for i in range(3))) for name in "ab"]
    found = read_held_out(sources(*files), tokenizer, 400, VerifiersConfig(), tmp_path / "out", first=2)
    assert [prompt.uid for prompt in found.prompts] == ["a0", "a1", "b0", "b1"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"colour": "red"}], "no record can be made a prompt .*columns of no known shape"),
        ([{**OWN, "uid": "x"}, {**OWN, "uid": "x"}], "uid 'x' is also that of line 1"),
        ([{**OWN, "answer": {"sum": 5}}], "prompt .*verifier math"),
        ([{**OWN, "prompt": "1" * 500}], "500 tokens, at most 399 fit"),
    ],
)
def test_data_that_cannot_be_evaluated_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, records: list[dict[str, object]], message: str
) -> None:
    file = lines(tmp_path / "data.jsonl", *records)
    with pytest.raises(DataError, match=message):
        read_held_out(sources(file), tokenizer, 400, VerifiersConfig(), tmp_path / "out")


def test_the_same_uid_in_two_files_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    files = [lines(tmp_path / f"{name}.jsonl", {**OWN, "uid": "x"}) for name in "ab"]
    with pytest.raises(DataError, match="1 uids occur twice, such as 'x'"):
        read_held_out(sources(*files), tokenizer, 400, VerifiersConfig(), tmp_path / "out")
