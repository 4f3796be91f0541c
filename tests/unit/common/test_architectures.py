"""What is known about a model before torch is imported: refused families, and heads that contradict config.json."""

import json
from pathlib import Path

import pytest
import torch
from prolong.common import architectures
from prolong.common.architectures import head_refusal, model_refusal
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError
from prolong.common.models import load_model
from safetensors.torch import load_file, save_file

from tests.support.tiny_model import make_tiny_model


def test_a_refused_family_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures.REFUSED, "oddity", "its layers run backwards; use another model")
    assert model_refusal({"model_type": "qwen3"}) is None
    assert model_refusal({}) is None
    assert model_refusal({"model_type": ["oddity"]}) is None
    refusal = model_refusal({"model_type": "oddity"})
    assert refusal == "models of type oddity cannot be trained here: its layers run backwards; use another model"


def rewrite(folder: Path, head: torch.Tensor | None, **settings: object) -> dict[str, object]:
    """Replace the stored head, and settings of config.json; returns the configuration."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    if head is not None:
        tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return config


def test_a_tied_model_whose_file_holds_another_head_is_refused_before_and_at_loading(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    config = rewrite(folder, embedding + 1.0)
    refusal = head_refusal(folder, config)
    assert refusal is not None
    assert "tie_word_embeddings" in refusal
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        load_model(ModelConfig(path=str(folder)), dtype=torch.float32, attention="sdpa")


def test_heads_that_agree_with_the_configuration_are_not_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert head_refusal(folder, rewrite(folder, None)) is None
    assert head_refusal(folder, rewrite(folder, embedding.clone())) is None
    assert head_refusal(folder, rewrite(folder, embedding + 1.0, tie_word_embeddings=False)) is None


def test_a_difference_in_the_last_value_or_in_another_file_is_found(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    config = rewrite(folder, None)
    head = embedding.clone()
    head[-1, -1] += 1.0
    save_file({"lm_head.weight": head}, folder / "model-00002.safetensors")
    assert head_refusal(folder, config) is not None
    save_file({"lm_head.weight": embedding.to(torch.bfloat16)}, folder / "model-00002.safetensors")
    assert head_refusal(folder, config) is not None


def test_files_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    config: dict[str, object] = {"tie_word_embeddings": True}
    assert head_refusal(tmp_path, config) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    assert head_refusal(tmp_path, config) is None


def test_every_refusal_is_one_sentence_with_a_reason() -> None:
    for kind in architectures.REFUSED:
        refusal = model_refusal({"model_type": kind})
        assert refusal is not None
        assert refusal.startswith(f"models of type {kind} cannot be trained here: ")
        assert "\n" not in refusal
