"""Prompt files, read once: buffer and `prolong data check` refuse the same lines in the same words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prolong.common.config.sections import SourceConfig
from prolong.common.data.prompts import load_prompts, read_prompts
from prolong.common.errors import DataError
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import Prompt, int32_array
from prolong.launch.data.check import read_contents

from tests.support.character_tokenizer import make_character_tokenizer

GOOD: dict[str, Any] = {"prompt": "1+1=", "domain": "math", "task": "sum", "verifier": "math", "answer": "2"}
LONE = "half of a surrogate pair (such as \\ud83d) in a text: no UTF-8 can hold it"
DEEP = 100_000


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_character_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def load(path: Path, tokenizer: Tokenizer, *, limit: int = 64) -> list[Prompt]:
    return load_prompts(SourceConfig(file=str(path)), tokenizer, limit + 10, 10)


def write(path: Path, *records: Any) -> Path:
    """One line for each: bytes and texts as they are, others as JSON."""
    lines = [record if isinstance(record, str | bytes) else json.dumps(record) for record in records]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def write_parquet(path: Path, table: Any) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, row_group_size=2)
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


def chat_of(tmp_path: Path, prompt: Any, **settings: Any) -> Prompt:
    """The one prompt of a file, read with these settings of its source; the chat template writes the BOS."""
    folder = tmp_path / "chat"
    folder.mkdir()
    tokenizer = make_character_tokenizer(folder, template=CHATTY)
    path = write(tmp_path / "chat.jsonl", GOOD | {"prompt": prompt})
    (only,) = load_prompts(SourceConfig(file=str(path), **settings), tokenizer, 300, 10)
    return only


CHATTY = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'][0] }}({{ m['content'] }}){% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}A:"
)
MESSAGES = [{"role": "system", "content": "own"}, {"role": "user", "content": "1+1"}]


@pytest.mark.parametrize(
    ("prompt", "settings", "text"),
    [
        ("1+1", {"chat": True}, "<s>u(1+1)A:"),
        ("1+1", {"chat": True, "system": "be brief"}, "<s>s(be brief)u(1+1)A:"),
        ("1+1", {"chat": True, "template": {"enable_thinking": False}}, "<s>u(1+1)<think></think>A:"),
        (MESSAGES[1:], {"system": "be brief"}, "<s>s(be brief)u(1+1)A:"),
        (MESSAGES, {"chat": True, "system": "be brief"}, "<s>s(own)u(1+1)A:"),
        ("1+1", {}, "1+1"),
    ],
    ids=["wrapped", "system", "argument", "messages get it too", "their own system message wins", "bare"],
)
def test_a_source_says_how_its_prompts_become_chats(tmp_path: Path, prompt: Any, settings: dict[str, Any], text: str) -> None:
    made = chat_of(tmp_path, prompt, **settings)
    ids = int32_array(made.token_ids).tolist()
    assert made.text == text
    assert ids.count(0) == 1, "a bare text gets its BOS from the tokenizer, a chat from its template"
    assert ids[0] == 0


def test_a_text_that_begins_with_bos_has_it_once(tmp_path: Path) -> None:
    made = chat_of(tmp_path, "<s>1+1")
    assert int32_array(made.token_ids).tolist() == [0, *map(ord, "1+1")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"system": "be brief"}, "its source has system, which bare text does not pass through; set chat: true there"),
        ({"template": {"enable_thinking": False}}, "its source has template, which bare text does not pass through"),
        (
            {"chat": True, "template": {"thinking": 1}},
            "template.thinking: the chat template does not read it; expected one of ena",
        ),
        ({"chat": True, "template": {"messages": []}}, "template.messages: the chat template does not read it"),
    ],
)
def test_a_chat_setting_without_effect_is_refused(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)):
        chat_of(tmp_path, "1+1", **settings)


def test_chats_for_a_tokenizer_without_a_template_name_the_setting(tmp_path: Path) -> None:
    source = SourceConfig(file=str(write(tmp_path / "chat.jsonl", GOOD)), chat=True)
    with pytest.raises(DataError, match="has no chat template; give texts, and no chat: true of their source"):
        load_prompts(source, make_character_tokenizer(tmp_path, template=""), 300, 10)


BAD_LINES = {
    "cut short": ('{"prompt": ', "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not JSON"),
    "too deep": ("[" * DEEP, "not JSON"),
    "a list": ("[1, 2]", "expected a JSON object, got list"),
    "a lone surrogate in the prompt": (GOOD | {"prompt": "1\ud83d"}, LONE),
    "a lone surrogate in the answer": (GOOD | {"answer": {"answer": "\ud83d"}}, LONE),
    "a lone surrogate as a key": (GOOD | {"answer": {"\ude00": 2}}, LONE),
    "a lone surrogate in a message": (GOOD | {"prompt": [{"role": "user", "content": "\ude00"}]}, LONE),
    "a lone surrogate in the uid": (GOOD | {"uid": "\ud83d"}, LONE),
    "a lone surrogate as bytes": (b'{"prompt": "\xed\xa0\xbd", "domain": "math"}', LONE),
    "a lone surrogate in the text of an answer": (GOOD | {"answer": json.dumps({"answer": "\ud83d"})}, LONE),
    "no task": (GOOD | {"task": ""}, "task = '': expected a non-empty string"),
    "a number for a verifier": (GOOD | {"verifier": 3}, "verifier = 3: expected a non-empty string"),
    "an empty prompt": (GOOD | {"prompt": ""}, "prompt = '': expected a non-empty string, or a list of chat messages"),
    "no message": (GOOD | {"prompt": ["1+1"]}, "prompt = ['1+1']: expected messages with a role"),
    "an answer with NaN": (GOOD | {"answer": {"answer": float("nan")}}, "answer = {'answer': nan} is not JSON"),
    "an answer too deep": (GOOD | {"answer": '{"a":' * DEEP}, "its prompt or its answer is nested too deep"),
    "a uid again": (GOOD | {"uid": "one"}, "uid 'one' is also that of line 1"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_buffer_and_data_check_refuse_a_line_in_the_same_words(
    tmp_path: Path, tokenizer: Tokenizer, line: Any, reason: str
) -> None:
    path = write(tmp_path / "bad.jsonl", GOOD | {"uid": "one"}, line, GOOD | {"uid": "three"})
    with pytest.raises(DataError) as refused:
        load(path, tokenizer)
    contents = read_contents(path, tokenizer)
    assert [f"line {line}: {why}" for why, (line,) in contents.bad.items()] == [str(refused.value).removeprefix(f"{path}, ")]
    assert next(iter(contents.bad)).startswith(reason)
    assert contents.lines == [1, 3]


class BrokenTemplate:
    """A tokenizer whose chat template writes what JSON can escape and UTF-8 cannot hold."""

    def render(self, prompt: str | list[Any], arguments: Any = None) -> str:
        return "\ud83d"

    def encode(self, text: str, *, special: bool = False) -> Any:
        raise AssertionError("a text that no frame can hold is not encoded")


def test_a_chat_template_that_makes_half_of_a_surrogate_pair_is_refused_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", GOOD)
    ((number, read),) = read_prompts(SourceConfig(file=str(path)), BrokenTemplate())
    assert (number, str(read)) == (1, f"the chat template made a text with {LONE}")


def test_buffer_and_data_check_read_the_same_prompts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chat = [{"role": "user", "content": "1+1"}]
    records = [GOOD, "", GOOD | {"prompt": chat}, GOOD | {"answer": {"answer": "\U0001f600"}, "uid": 7}, GOOD | {"answer": 2}]
    path = write(tmp_path / "good.jsonl", *records)
    prompts = load(path, tokenizer)
    assert prompts == read_contents(path, tokenizer).prompts
    assert [prompt.uid.rpartition("/")[2] for prompt in prompts] == ["1", "3", "7", "5"]


def test_a_prompt_that_leaves_no_room_for_its_completion_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "long.jsonl", GOOD, GOOD | {"prompt": "9" * 64})
    with pytest.raises(DataError, match=r"long\.jsonl, line 2: the prompt has 65 tokens, at most 64 fit"):
        load(path, tokenizer)


def test_parquet_is_read_like_jsonl(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import pyarrow

    rows = [GOOD | {"answer": json.dumps({"entry": [1, None]})}, GOOD | {"prompt": "2+2=", "answer": "4"}, GOOD]
    path = write_parquet(tmp_path / "sums.parquet", pyarrow.Table.from_pylist(rows))
    prompts = load(path, tokenizer)
    assert [p.text for p in prompts] == ["1+1=", "2+2=", "1+1="]
    assert [json.loads(p.answer) for p in prompts] == [{"entry": [1, None]}, {"answer": "4"}, {"answer": "2"}]
    assert [p.uid for p in prompts] == [f"{tmp_path.name}/sums/{row}" for row in (1, 2, 3)]
    assert prompts[1:] == read_contents(path, tokenizer).prompts, "all but the first, whose verifier cannot judge its answer"


def test_rows_of_parquet_come_in_portions_not_all_at_once(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    monkeypatch.setattr("prolong.common.data.records.PARQUET_ROWS", 4)
    path = write_parquet(tmp_path / "sums.parquet", pyarrow.Table.from_pylist([GOOD] * 11))
    sizes: list[int] = []
    batches = pyarrow.parquet.ParquetFile.iter_batches

    def counted(*args: Any, **kwargs: Any) -> Any:
        for batch in batches(*args, **kwargs):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    assert len(load(path, tokenizer)) == 11
    assert max(sizes) <= 4


def test_a_row_of_parquet_that_is_not_utf_8_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import pyarrow

    columns = {name: pyarrow.array([value] * 3) for name, value in GOOD.items()}
    columns["prompt"] = pyarrow.array([b"1+1=", b"\xff", b"2+2="]).view(pyarrow.string())
    path = write_parquet(tmp_path / "sums.parquet", pyarrow.table(columns))
    with pytest.raises(DataError, match=r"sums\.parquet, line 2: a text is not UTF-8"):
        load(path, tokenizer)
    contents = read_contents(path, tokenizer)
    assert contents.lines == [1, 3]
    assert [(reason[:21], lines) for reason, lines in contents.bad.items()] == [("a text is not UTF-8: ", [2])]


def test_a_file_that_is_not_parquet_or_is_damaged_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    import pyarrow

    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR0")
    with pytest.raises(DataError, match="is not a parquet file"):
        load(bad, tokenizer)
    write_parquet(bad, pyarrow.Table.from_pylist([GOOD] * 500))
    damaged = bytearray(bad.read_bytes())
    damaged[4:200] = bytes(196)
    bad.write_bytes(damaged)
    with pytest.raises(DataError, match="is not a parquet file, or is damaged"):
        load(bad, tokenizer)


def test_empty_and_missing_files_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="has no prompt"):
        load(write(tmp_path / "empty.jsonl", "", ""), tokenizer)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none.jsonl", tokenizer)
    with pytest.raises(DataError, match="does not exist"):
        read_contents(tmp_path / "none.jsonl", tokenizer)


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
