"""A GGUF file becomes a folder that our tokenizer and transformers load, with every weight in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from prolong.common.architectures import ties_head
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError
from prolong.common.model_folder import folder_refusal, read_model_config
from prolong.common.models import load_model
from prolong.common.tokenizer import Tokenizer
from prolong.launch.real.convert import convert_gguf
from prolong.launch.real.gguf import GgufFile

from tests.support.gguf_files import HEADS, KV_HEADS, METADATA, TOKENS, float32_tensors, tiny_weights, write_gguf


def rotated(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of a query or key projection: rows i and i + half of a head become neighbours."""
    size = weights.shape[0] // heads
    order = [head * size + i + half for head in range(heads) for i in range(size // 2) for half in (0, size // 2)]
    return weights[order]


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    return tiny_weights()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, np.ndarray]) -> Path:
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}
    stored = {
        name: rotated(value, heads[part]) if (part := name.split(".")[-2]) in heads else value for name, value in plain.items()
    }
    made = tmp_path_factory.mktemp("converted")
    convert_gguf(write_gguf(made / "m.gguf", float32_tensors(stored)), made, lambda sentence: None)
    return made


def test_the_folder_is_a_sound_model_with_a_tied_head(folder: Path) -> None:
    assert folder_refusal(folder) == ""
    assert ties_head(read_model_config(folder))
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044, "others of the machine may read it"


def test_every_weight_is_where_transformers_expects_it(folder: Path, plain: dict[str, np.ndarray]) -> None:
    model = load_model(ModelConfig(path=str(folder)), dtype=torch.float32, attention="sdpa")
    state = model.state_dict()
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "attn_norm": "input_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for name, expected in plain.items():
        parts = name.split(".")
        theirs = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}.get(
            parts[0], f"model.layers.{parts[1]}.{names.get(parts[-2], '')}"
        )
        np.testing.assert_array_equal(state[f"{theirs}.weight"].numpy(), expected, err_msg=name)
    assert model.config.rope_parameters["rope_theta"] == 100_000.0
    assert model.config.head_dim == 16


def test_the_tokenizer_merges_splits_digits_and_keeps_its_special_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.load(str(folder))
    ids = tokenizer.encode(tokenizer.render([{"role": "user", "content": "an 12 \u00e9"}])).tolist()
    texts = [TOKENS[i] for i in ids]
    assert texts[0] == "<|im_start|>"
    assert "an" in texts
    assert "12" not in texts, "digits are split before merges, as the model was trained"
    assert tokenizer.decode(ids) == "<|im_start|>user\nan 12 \u00e9<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
    assert tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"general.architecture": "qwen3"}, "a model of the architecture 'qwen3'; expected llama"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "a tokenizer of the form 'llama-bpe'; expected one of smollm"),
        ({"llama.block_count": "two"}, "llama.block_count = 'two'; expected a whole number"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, change: dict, sentence: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", float32_tensors(tiny_weights()), METADATA | change)
    with pytest.raises(ModelError, match=sentence):
        convert_gguf(path, tmp_path, lambda sentence: None)
    assert not (tmp_path / "model.safetensors").exists()
    assert GgufFile(path).tensors
