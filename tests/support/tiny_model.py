"""A random Qwen3 of a few ten thousand parameters with a character-level tokenizer, for tests that need a real model.

Example: folder = make_tiny_model(tmp_path / "model", tied=True)
         AutoModelForCausalLM.from_pretrained(folder); LLM(model=str(folder))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM

PAD, EOS = "<pad>", "<eos>"
CHARACTERS = "0123456789+-*/=?.,:;!()[]{}<>\\ abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n'\"_@#%&|~^$`\t"


def make_tiny_model(folder: Path, *, tied: bool, seed: int = 0, vocab: int = 64) -> Path:
    """Write config, weights and tokenizer of a random float32 Qwen3 into `folder`; id 0 is <pad>, id 1 is <eos>.

    `vocab` counts the two special tokens; the others are the first characters of CHARACTERS. The head dimension is 32, the
    smallest that vLLM's CPU attention knows. Random weights are drawn wide enough that distributions are far from uniform.
    """
    if not 3 <= vocab <= len(CHARACTERS) + 2:
        raise ValueError(f"vocab = {vocab}: expected 3 to {len(CHARACTERS) + 2}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, vocab)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    randomize(model, seed)
    model.save_pretrained(folder)
    return folder


def make_tiny_family(folder: Path, config: PreTrainedConfig, seed: int = 0) -> Path:
    """Write a random model of any family, with the tokenizer of `make_tiny_model`; its ids 0 and 1 are <pad> and <eos>."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, 64)
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, seed)
    model.save_pretrained(folder)
    return folder


def family_settings(**changes: Any) -> dict[str, Any]:
    """Settings of a tiny model that most families' configurations know, as small as vLLM's CPU attention allows."""
    return {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "dtype": "float32",
    } | changes


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draw all weights of `model` anew: deterministic in `seed`, far from uniform outputs, norms away from 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise * (0.25 if "embed" in name or "lm_head" in name else parameter.shape[-1] ** -0.5))


def _write_tokenizer(folder: Path, vocab: int) -> None:
    tokens = [PAD, EOS, *CHARACTERS[: vocab - 2]]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
