"""Prompts of a prompt file. The buffer, `prolong train` before a start and `prolong data check` read every file through here.

    line of JSONL or row of parquet --read_prompts--> ReadPrompt, or a DataError for this line

Example of a line; `prompt` may be a list of chat messages, and `uid` may be left out:

    {"prompt": "1+1=", "domain": "math", "task": "addition", "verifier": "math", "answer": "2", "uid": "sum/1"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from ..config.sections import SourceConfig
from ..errors import DataError
from ..json_object import JsonObject
from ..types import Prompt
from .chat import as_chat
from .records import LONE_SURROGATE, DataRecord, is_unicode, read_records

_NAMES = ("domain", "task", "verifier")
NO_ARGUMENTS: Mapping[str, object] = MappingProxyType({})


class PromptEncoder(Protocol):
    """Renders prompts and encodes texts. `Tokenizer` is one; `prolong data check` counts characters with another."""

    def render(self, prompt: str | list[JsonObject], arguments: Mapping[str, object] = NO_ARGUMENTS) -> str:
        """The text that the model continues; `arguments` are those of the chat template. Raises: DataError."""
        ...

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """Token ids, [T] int32, with the tokens that surround a bare text if `special`."""
        ...


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt, and the record that it was made of. `rendered`: the messages that became its text, or its bare text."""

    prompt: Prompt
    record: DataRecord
    rendered: str | list[JsonObject]


def read_prompts(source: SourceConfig, tokenizer: PromptEncoder) -> Iterator[tuple[int, ReadPrompt | DataError]]:
    """Yield (number of the line or row, from 1; its prompt, or why it cannot be used), one line in memory at a time.

    A uid that an earlier line of the file has makes a line unusable. Raises: DataError when the file as a whole cannot be read.
    """
    path, only = Path(source.file), source.only
    line_of: dict[str, int] = {}
    for number, record in read_records(path):
        if isinstance(record, DataError):
            yield number, record
            continue
        if only and not f"{record.get('domain')}/{record.get('task')}".startswith(only):
            continue
        try:
            read = to_prompt(record, f"{path.parent.name}/{path.stem}/{number}", tokenizer, source)
            prompt = read.prompt
            if prompt.uid in line_of:
                raise DataError(f"uid {prompt.uid!r} is also that of line {line_of[prompt.uid]}")
        except DataError as error:
            yield number, error
            continue
        line_of[prompt.uid] = number
        yield number, read


def load_prompts(source: SourceConfig, tokenizer: PromptEncoder, max_context: int, max_tokens: int) -> list[Prompt]:
    """All prompts of one source, in the order of the file. Raises: as `stream_prompts`."""
    return list(stream_prompts(source, tokenizer, max_context, max_tokens))


def stream_prompts(source: SourceConfig, tokenizer: PromptEncoder, max_context: int, max_tokens: int) -> Iterator[Prompt]:
    """Yield the prompts of one source in the order of the file, one line in memory at a time.

    Raises: DataError with file and line for the first line that cannot be used, or whose prompt leaves no room for `max_tokens`
    new tokens in `max_context`; DataError when there is no file or no prompt.
    """
    path, limit = Path(source.file), max_context - max_tokens
    if not path.is_file():
        raise DataError(f"prompt file {path} does not exist; check data.*.file")
    is_empty = True
    for number, read in read_prompts(source, tokenizer):
        if isinstance(read, DataError):
            raise DataError(f"{path}, line {number}: {read}") from read
        length = len(read.prompt.token_ids) // 4
        if length > limit:
            raise DataError(
                f"{path}, line {number}: the prompt has {length} tokens, at most {limit} fit "
                f"(model.max_context = {max_context}, of which {max_tokens} are for the completion)"
            )
        is_empty = False
        yield read.prompt
    if is_empty:
        raise DataError(f"prompt file {path} has no prompt" + (f" of {source.only}" if source.only else ""))


def to_prompt(record: DataRecord, default_uid: str, tokenizer: PromptEncoder, source: SourceConfig) -> ReadPrompt:
    """One record as a prompt. Raises: DataError naming the field."""
    for name in _NAMES:
        if not isinstance(record.get(name), str) or not record[name]:
            raise DataError(f"{name} = {record.get(name)!r:.200}: expected a non-empty string")
    prompt = record.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise DataError(f"prompt = {prompt!r:.200}: expected a non-empty string, or a list of chat messages")
    try:
        rendered = as_chat(prompt, source)
        text = tokenizer.render(rendered, source.template)
        answer = _answer_text(record.get("answer", {}))
    except RecursionError as error:
        raise DataError(f"its prompt or its answer is nested too deep: {error}") from error
    # the record is sound: what UTF-8 cannot hold now comes from the chat template
    if not is_unicode(text):
        raise DataError(f"the chat template made a text with {LONE_SURROGATE}")
    token_ids = tokenizer.encode(text, special=isinstance(rendered, str))
    if len(token_ids) == 0:
        raise DataError(f"the prompt {text!r} has no tokens")
    made = Prompt(
        uid=str(record.get("uid") or default_uid),
        domain=record["domain"],
        task=record["task"],
        text=text,
        token_ids=token_ids.tobytes(),
        verifier=record["verifier"],
        answer=answer,
    )
    return ReadPrompt(made, record, rendered)


def _answer_text(answer: Any) -> str:
    """The answer as the text of a JSON object: objects and their texts as they are, anything else as {"answer": it}."""
    if isinstance(answer, str) and _is_json_object(answer):
        return answer
    try:
        return json.dumps(answer if isinstance(answer, dict) else {"answer": answer}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"answer = {answer!r:.200} is not JSON: {error}") from error


def _is_json_object(text: str) -> bool:
    """Whether a text is a JSON object. Raises: DataError for an object with a lone surrogate, which no frame can hold."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False
    if "\\u" in text and not is_unicode(value):
        raise DataError(LONE_SURROGATE)
    return True
