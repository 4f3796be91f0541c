"""Prompts, read from files once.

A line of JSONL, or a row of parquet: {"prompt": str | [messages], "domain", "task", "verifier", "answer": any JSON, "uid"?}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...common.config.sections import Config, SourceConfig
from ...common.config.stages import staged_configs
from ...common.errors import DataError
from ...common.tokenizer import Tokenizer
from ...common.types import Prompt
from .mixture import PromptMixture

_NAMES = ("domain", "task", "verifier")


def load_prompts(source: SourceConfig, tokenizer: Tokenizer, max_context: int, max_tokens: int) -> list[Prompt]:
    """Read, render and tokenize one prompt file.

    Raises DataError with file and line for a file, line or prompt that cannot be used; a prompt is too long when it leaves
    no room for `max_tokens` new tokens in `max_context`.
    """
    path = Path(source.file)
    if not path.is_file():
        raise DataError(f"prompt file {path} does not exist; check data.*.file")
    prompts: list[Prompt] = []
    line_of: dict[str, int] = {}
    for line, record in _records(path):
        if source.only and not f"{record.get('domain')}/{record.get('task')}".startswith(source.only):
            continue
        prompt = to_prompt(f"{path}, line {line}", f"{path.parent.name}/{path.stem}/{line}", record, tokenizer)
        length, limit = len(prompt.token_ids) // 4, max_context - max_tokens
        if length > limit:
            raise DataError(
                f"{path}, line {line}: the prompt has {length} tokens, at most {limit} fit "
                f"(model.max_context = {max_context}, of which {max_tokens} are for the completion)"
            )
        if prompt.uid in line_of:
            raise DataError(f"{path}, line {line}: uid {prompt.uid!r} is also that of line {line_of[prompt.uid]}")
        line_of[prompt.uid] = line
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"prompt file {path} has no prompt" + (f" of {source.only}" if source.only else ""))
    return prompts


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, record) of a JSONL or parquet file."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: expected a JSON object, got {type(record).__name__}")
            yield number, record


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"prompt file {path} is not a parquet file: {error}") from error


def to_prompt(where: str, default_uid: str, record: dict[str, Any], tokenizer: Tokenizer) -> Prompt:
    """One record as a Prompt. Raises DataError that begins with `where`."""
    for name in _NAMES:
        if not isinstance(record.get(name), str) or not record[name]:
            raise DataError(f"{where}: {name} = {record.get(name)!r}: expected a non-empty string")
    prompt = record.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise DataError(f"{where}: prompt = {prompt!r}: expected a non-empty string, or a list of chat messages")
    try:
        text = tokenizer.render(prompt)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    token_ids = tokenizer.encode(text, special=isinstance(prompt, str))
    if len(token_ids) == 0:
        raise DataError(f"{where}: the prompt {text!r} has no tokens")
    return Prompt(
        uid=str(record.get("uid") or default_uid),
        domain=record["domain"],
        task=record["task"],
        text=text,
        token_ids=token_ids.tobytes(),
        verifier=record["verifier"],
        answer=_answer(where, record),
    )


def _answer(where: str, record: dict[str, Any]) -> str:
    """The answer as the text of a JSON object: objects and their texts as they are, anything else as {"answer": it}."""
    answer = record.get("answer", {})
    if isinstance(answer, str):
        try:
            if isinstance(json.loads(answer), dict):
                return answer
        except json.JSONDecodeError:
            pass
    try:
        return json.dumps(answer if isinstance(answer, dict) else {"answer": answer}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: answer = {answer!r} is not JSON: {error}") from error


def load_mixture(cfg: Config, tokenizer: Tokenizer) -> PromptMixture:
    """The training mixture of a run: every source of every stage, with room for the longest completion. Raises DataError."""
    if not cfg.data.train:
        raise DataError("there are no training prompts; list prompt files in data.train")
    max_tokens = longest_completion(cfg)
    prompts = [load_prompts(source, tokenizer, cfg.model.max_context, max_tokens) for source in cfg.data.train]
    return PromptMixture(list(zip(prompts, cfg.data.mixture, strict=True)), cfg.run.seed)


def longest_completion(cfg: Config) -> int:
    """`sampling.max_tokens` of the stage that has most: what every training prompt must leave room for."""
    return max(staged.sampling.max_tokens for staged in staged_configs(cfg))


def load_heldout(cfg: Config, tokenizer: Tokenizer) -> list[Prompt]:
    """The validation prompts of a run, possibly none. Raises DataError."""
    sources = [load_prompts(source, tokenizer, cfg.model.max_context, cfg.validation.max_tokens) for source in cfg.data.heldout]
    return [prompt for prompts in sources for prompt in prompts]
