"""The prompts of a run: sources, weights, limits, validation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prolong.buffer.tickets.prompts import load_heldout, load_training_prompts
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.sections import Config, DataConfig, ModelConfig, SamplingConfig, SourceConfig, ValidationConfig
from prolong.common.errors import DataError
from prolong.common.tokenizer import Tokenizer

from tests.support.character_tokenizer import make_character_tokenizer

GOOD: dict[str, Any] = {"prompt": "1+1=", "domain": "math", "task": "sum", "verifier": "math", "answer": "2"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_character_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_a_run_without_training_prompts_is_refused_and_needs_none_for_validation(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"data\.train"):
        load_training_prompts(Config(model=ModelConfig(path="x")), tokenizer)
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
    mixture = load_training_prompts(cfg, tokenizer)
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
    assert load_training_prompts(cfg, tokenizer).next().text == "1" * 20
    cfg.stages = [StageConfig(name="short", steps=1), StageConfig(name="long", sampling={"max_tokens": 16})]
    with pytest.raises(DataError, match="21 tokens, at most 16 fit"):
        load_training_prompts(cfg, tokenizer)
