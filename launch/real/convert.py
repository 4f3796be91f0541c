"""A GGUF file of a Llama model with a byte-level tokenizer, as a model folder that transformers and vLLM load.

    FOLDER/{config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json, chat_template.jinja}

The weights are written as float32, to the bit what the file's quantized ones mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np

from ...common.errors import ModelError
from ...common.files import write_atomically
from ...common.json_object import JsonObject
from .gguf import GgufFile

# names in a GGUF file -> names in transformers, behind model.layers.N.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # the type of a token that is no text
# of tokenizer.ggml.pre -> the tokenizer splits digits before it merges
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False}


def convert_gguf(source: Path, folder: Path, tell: Callable[[str], None]) -> None:
    """Write the model of the file `source` to `folder`, which exists; `tell` hears of each part. Raises: ModelError."""
    file = GgufFile(source)
    config = model_config(file)
    _write_json(folder / "config.json", config)
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    _write_json(folder / "generation_config.json", ends | {"pad_token_id": config["pad_token_id"]})
    tell("tokenizer")
    write_bpe_tokenizer(file, folder)
    _write_weights(file, config, folder / "model.safetensors", tell)


def model_config(file: GgufFile) -> JsonObject:
    """config.json for transformers. Raises: ModelError."""
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(f"{file.path} holds a model of the architecture {architecture!r}; expected llama")
    heads = _number(file, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": _number(file, "llama.embedding_length"),
        "intermediate_size": _number(file, "llama.feed_forward_length"),
        "num_hidden_layers": _number(file, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(file, "llama.attention.head_count_kv"),
        "head_dim": _number(file, "llama.embedding_length") // heads,
        "max_position_embeddings": _number(file, "llama.context_length"),
        "rms_norm_eps": round(cast("float", file.metadata["llama.attention.layer_norm_rms_epsilon"]), 12),
        "rope_theta": cast("float", file.metadata["llama.rope.freq_base"]),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": _number(file, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _number(file, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _number(file, "tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _number(file: GgufFile, key: str) -> int:
    value = file.metadata.get(key)
    if not isinstance(value, int):
        raise ModelError(f"{file.path} has {key} = {value!r}; expected a whole number")
    return value


def _texts(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ModelError(f"{file.path} has no list of texts {key}; expected the parts of a byte-level tokenizer")
    return cast("list[str]", value)


def write_bpe_tokenizer(file: GgufFile, folder: Path) -> None:
    """The tokenizer's files. Raises: ModelError."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = _texts(file, "tokenizer.ggml.tokens"), cast("list[int]", file.metadata["tokenizer.ggml.token_type"])
    form = file.metadata.get("tokenizer.ggml.pre")
    if file.metadata.get("tokenizer.ggml.model") != "gpt2" or form not in _SPLITS_DIGITS:
        raise ModelError(f"{file.path} has a tokenizer of the form {form!r}; expected one of {', '.join(_SPLITS_DIGITS)}")
    merges = [(left, right) for left, right in (merge.split(" ") for merge in _texts(file, "tokenizer.ggml.merges"))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS_DIGITS[str(form)] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    controls = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {f"{name}_token": tokens[_number(file, f"tokenizer.ggml.{key}_token_id")] for name, key in named.items()}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _number(file, "llama.context_length")}
    _write_json(folder / "tokenizer_config.json", described | {"clean_up_tokenization_spaces": False} | special)
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_weights(file: GgufFile, config: JsonObject, path: Path, tell: Callable[[str], None]) -> None:
    from safetensors.numpy import save

    write_atomically(path, save(dict(named_weights(file, config, tell)), metadata={"format": "pt"}))


def named_weights(file: GgufFile, config: JsonObject, tell: Callable[[str], None]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name in transformers, float32 weights). Raises: ModelError."""
    yield "model.embed_tokens.weight", file.tensor("token_embd.weight")
    yield "model.norm.weight", file.tensor("output_norm.weight")
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", file.tensor("output.weight")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for layer in range(config["num_hidden_layers"]):
        for stored, name in _LAYER.items():
            weights = file.tensor(f"blk.{layer}.{stored}.weight")
            yield f"model.layers.{layer}.{name}.weight", unrotated(weights, heads[stored]) if stored in heads else weights
        tell(f"layer {layer + 1} of {config['num_hidden_layers']}")


def unrotated(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order of transformers.

    llama.cpp turns neighbouring rows of a head as a pair, transformers row i and row i + half.
    """
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def _write_json(path: Path, content: JsonObject) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
