from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prolong.buffer.tickets.prompts import load_heldout, load_mixture, load_prompts
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.sections import Config, DataConfig, ModelConfig, SamplingConfig, SourceConfig, ValidationConfig
from prolong.common.errors import DataError
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import Prompt, int32_array

GOOD: dict[str, Any] = {"prompt": "1+1=", "domain": "math", "task": "sum", "verifier": "math", "answer": "2"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token a character, <s> in front, and a chat template."""
    import tokenizers
    from tokenizers import Regex, models, pre_tokenizers, processors

    vocabulary = {"<s>": 0, "<unk>": 1} | {chr(c): c for c in range(32, 127)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}A:")
    return Tokenizer.load(str(folder))


def load(path: Path, tokenizer: Tokenizer, *, limit: int = 64) -> list[Prompt]:
    return load_prompts(SourceConfig(file=str(path)), tokenizer, limit + 10, 10)


def write(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_a_line_becomes_a_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chat = GOOD | {"prompt": [{"role": "user", "content": "1+1"}], "answer": {"answer": "2"}, "uid": "mine"}
    first, second = load(write(tmp_path / "sums.jsonl", GOOD, "", chat), tokenizer)
    assert (first.uid, first.domain, first.task, first.verifier) == (f"{tmp_path.name}/sums/1", "math", "sum", "math")
    assert first.text == "1+1="
    assert int32_array(first.token_ids).tolist() == [0, *map(ord, "1+1=")], "a bare text gets its <s>"
    assert json.loads(first.answer) == {"answer": "2"}
    assert second.uid == "mine"
    assert int32_array(second.token_ids).tolist() == [*map(ord, "[1+1]A:")], "a template brings its own"
    assert json.loads(second.answer) == {"answer": "2"}


def test_parquet_is_read_like_jsonl(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [GOOD | {"answer": json.dumps({"entry": [1, None]})}, GOOD | {"prompt": "2+2=", "answer": "4"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "sums.parquet")
    prompts = load(tmp_path / "sums.parquet", tokenizer)
    assert [p.text for p in prompts] == ["1+1=", "2+2="]
    assert [json.loads(p.answer) for p in prompts] == [{"entry": [1, None]}, {"answer": "4"}]
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataError, match="is not a parquet file"):
        load(tmp_path / "bad.parquet", tokenizer)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"prompt": ', "line 2: not JSON"),
        ("[1, 2]", "line 2: expected a JSON object, got list"),
        (GOOD | {"task": ""}, "line 2: task = '': expected a non-empty string"),
        (GOOD | {"verifier": 3}, "line 2: verifier = 3: expected a non-empty string"),
        (GOOD | {"prompt": ""}, "line 2: prompt = '': expected a non-empty string, or a list of chat messages"),
        (GOOD | {"prompt": ["1+1"]}, "line 2: .*expected messages with a role"),
        (GOOD | {"prompt": "9" * 64}, "line 2: the prompt has 65 tokens, at most 64 fit"),
        (GOOD | {"uid": "one"}, "line 2: uid 'one' is also that of line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, tokenizer: Tokenizer, line: Any, complaint: str) -> None:
    path = write(tmp_path / "bad.jsonl", GOOD | {"uid": "one"}, line)
    with pytest.raises(DataError, match=complaint) as error:
        load(path, tokenizer)
    assert str(path) in str(error.value)


def test_empty_and_missing_files_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="has no prompt"):
        load(write(tmp_path / "empty.jsonl", "", ""), tokenizer)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none.jsonl", tokenizer)
    with pytest.raises(DataError, match=r"data\.train"):
        load_mixture(Config(model=ModelConfig(path="x")), tokenizer)
    assert load_heldout(Config(model=ModelConfig(path="x")), tokenizer) == []


def test_a_run_reads_its_sources_with_their_weights_and_limits(tmp_path: Path, tokenizer: Tokenizer) -> None:
    many = write(tmp_path / "many.jsonl", *(GOOD | {"uid": f"m{i}"} for i in range(4)))
    long = write(tmp_path / "long.jsonl", GOOD | {"prompt": "1" * 20, "uid": "long"})
    cfg = Config(
        model=ModelConfig(path="x", max_context=32),
        sampling=SamplingConfig(max_tokens=8),
        validation=ValidationConfig(max_tokens=16),
        data=DataConfig(
            train=[SourceConfig(file=str(many), weight=3.0), SourceConfig(file=str(long))],
            heldout=[SourceConfig(file=str(long))],
        ),
    )
    mixture = load_mixture(cfg, tokenizer)
    assert Counter(mixture.next().uid == "long" for _ in range(40)) == {False: 30, True: 10}
    with pytest.raises(DataError, match="21 tokens, at most 16 fit"):
        load_heldout(cfg, tokenizer)


def test_prompts_must_leave_room_for_the_longest_completion_of_any_stage(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "long.jsonl", GOOD | {"prompt": "1" * 20})
    cfg = Config(
        model=ModelConfig(path="x", max_context=32),
        sampling=SamplingConfig(max_tokens=8),
        data=DataConfig(train=[SourceConfig(file=str(path))]),
    )
    assert load_mixture(cfg, tokenizer).next().text == "1" * 20
    cfg.stages = [StageConfig(name="short", steps=1), StageConfig(name="long", sampling={"max_tokens": 16})]
    with pytest.raises(DataError, match="21 tokens, at most 16 fit"):
        load_mixture(cfg, tokenizer)


def test_a_source_may_keep_some_tasks_of_a_file_only(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    line = {"prompt": "one plus two", "verifier": "number", "answer": 3}
    tasks = [("math", "addition"), ("logic", "sorting"), ("math", "digit_sum"), ("math", "addition")]
    path.write_text("".join(json.dumps(line | {"domain": domain, "task": task}) + "\n" for domain, task in tasks))

    def uids(only: str) -> list[str]:
        return [prompt.uid for prompt in load_prompts(SourceConfig(file=str(path), only=only), tokenizer, 64, 16)]

    assert [uid.rpartition("/")[2] for uid in uids("math")] == ["1", "3", "4"]
    assert [uid.rpartition("/")[2] for uid in uids("math/addition")] == ["1", "4"]
    with pytest.raises(DataError, match="has no prompt of code"):
        uids("code")
