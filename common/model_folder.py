"""A model folder, read without torch: what config.json says, and whether the weight files beside it are complete.

`prolong train`, `prolong doctor` and every component ask here before anything starts. What cannot be known without building
the model is left to common/models.py.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .architectures import head_refusal, model_refusal, stored_embedding, stored_tensors, tensors_in, ties_head
from .errors import ModelError
from .json_object import JsonObject

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# names that families have for their longest context
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
# of each tensor that a fingerprint looks at, spread evenly
_PARTS, _PART_BYTES = 4, 1024
_MODALITIES = ("vision_config", "audio_config", "speech_config")


def read_model_config(folder: Path) -> JsonObject:
    """The content of config.json. Raises: ModelError."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); expected the config.json of a causal language model") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


def text_settings(config: JsonObject) -> JsonObject:
    """The part of config.json about the language model: of one that also sees or hears, a section."""
    section = config.get("text_config")
    return config | section if isinstance(section, dict) else config


def vocabulary_size(config: JsonObject) -> int | None:
    """The number of token ids that the model knows, from 0 on; None if config.json does not say."""
    return _number(text_settings(config), ("vocab_size",))


def longest_context(config: JsonObject) -> int | None:
    """The most tokens that the model takes; None if config.json does not say."""
    return _number(text_settings(config), _POSITIONS)


def _number(settings: JsonObject, names: Iterable[str]) -> int | None:
    values = (settings.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def folder_refusal(folder: Path) -> str:
    """The first reason why the model in `folder` cannot be trained, and what to do; empty if none is known.

    Raises: ModelError when config.json cannot be read.
    """
    config = read_model_config(folder)
    return (
        config_refusal(config) or _files_refusal(folder) or _rows_refusal(folder, config) or head_refusal(folder, config) or ""
    )


def config_refusal(config: JsonObject) -> str:
    """The first reason that config.json gives against training this model; empty if there is none."""
    return _kind_refusal(config) or model_refusal(config) or ""


def _kind_refusal(config: JsonObject) -> str:
    """Why this is no causal language model that transformers builds by itself, with weights that can be trained."""
    kind = config.get("model_type")
    known = causal_model_types()
    if not isinstance(kind, str) or not kind:
        return f"config.json has model_type = {kind!r}: expected the type of a causal language model, such as qwen3"
    if config.get("is_encoder_decoder"):
        return f"models of type {kind} have an encoder and a decoder; expected a causal language model (a decoder alone)"
    if isinstance(config.get("quantization_config"), dict):
        method = config["quantization_config"].get("quant_method", "unknown")
        return f"its weights are quantized ({method}) and cannot be trained; use the unquantized model that they were made of"
    if known and kind not in known:
        own = "it needs code of its own (auto_map), which is never run here" if "auto_map" in config else "it is unknown"
        return f"transformers has no causal language model of type {kind}: {own}; use a type that transformers knows"
    odd = [name for name in _SIZES if name in config and (type(config[name]) is not int or config[name] < 1)]
    if odd:
        return f"config.json has {odd[0]} = {config[odd[0]]!r}: expected a whole number above 0"
    parts = [name for name in _MODALITIES if isinstance(config.get(name), dict)]
    if parts:
        return f"it also has a {parts[0]}; only text is trained: use the language model alone, saved as a folder of its own"
    return ""


def _files_refusal(folder: Path) -> str:
    """Why the folder's weights are not all there."""
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for form in _OTHER_FORMATS for path in folder.glob(form))
        found = f"its weights are {others[0]}, which is not read" if others else "it holds no weights"
        return f"{found}; expected model.safetensors, or shards with {INDEX} (save_pretrained writes them)"
    if not (folder / "model.safetensors").is_file():
        if not (folder / INDEX).is_file() and any(folder.glob("policy-*-of-*.safetensors")):
            return f"it is a checkpoint of several ranks; make a model of it with: prolong export {folder} FOLDER"
        if not (folder / INDEX).is_file() and (folder / "adapter_model.safetensors").is_file():
            return f"it holds adapters and not their base; merge both with: prolong export {folder} FOLDER"
        return _shards_refusal(folder)
    return _cut_refusal([folder / "model.safetensors"])


def _shards_refusal(folder: Path) -> str:
    """Why the shards are not those that the index lists."""
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        listed = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its weights are in shards, and {INDEX}, which lists them, is missing or cannot be read; fetch the folder again"
    missing = [name for name in listed if not (folder / str(name)).is_file()]
    if missing:
        return f"{len(missing)} of its {len(listed)} shards are missing, the first is {missing[0]}; fetch the folder again"
    return _cut_refusal([folder / str(name) for name in listed])


def _cut_refusal(files: Iterable[Path]) -> str:
    """Why one of these safetensors files is damaged, or is shorter than its own header says."""
    for file in files:
        try:
            tensors = tensors_in([file])
            end = max((tensor.start + tensor.num_bytes for tensor in tensors.values()), default=0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
            return f"{file.name} is not a safetensors file, or is damaged; fetch it again"
        if file.stat().st_size < end:
            return f"{file.name} has {file.stat().st_size} bytes, its header lists {end}: it was cut off; fetch it again"
    return ""


def _rows_refusal(folder: Path, config: JsonObject) -> str:
    """Why the embedding that is stored does not have a row for each token id of config.json."""
    expected = vocabulary_size(config)
    tensor = stored_embedding(stored_tensors(folder))
    if expected is None or tensor is None or not tensor.shape or tensor.shape[0] == expected:
        return ""
    return (
        f"config.json says vocab_size = {expected}, the embedding in {tensor.file.name} has {tensor.shape[0]} rows; "
        "write the number of rows into config.json, or save the model again with its config"
    )


def weights_fingerprint(folder: Path) -> tuple[int, int]:
    """Two signed 64-bit numbers that tell the weights in `folder` from others; how they are spread over files does not count.

    Names, types and shapes of all tensors count, and a few kilobytes of each: training changes every part of a tensor, so that
    reading all of a large model is not needed to see it. Raises: ModelError.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        # a checkpoint has other files beside those of the model
        for name, tensor in sorted(tensors_in(folder.glob("model*.safetensors")).items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            with tensor.file.open("rb") as file:
                for part in range(_PARTS):
                    file.seek(tensor.start + part * max(0, tensor.num_bytes - _PART_BYTES) // max(1, _PARTS - 1))
                    digest.update(file.read(min(_PART_BYTES, tensor.num_bytes)))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(f"the weights in {folder} cannot be read ({error}); fetch the model again") from error
    first, second = struct.unpack("<qq", digest.digest())
    return first, second


def biased_tied_head(folder: Path) -> str:
    """Why vLLM cannot run this model's head; empty if it can. A sound folder, as `folder_refusal` says."""
    if not ties_head(read_model_config(folder)) or "lm_head.bias" not in stored_tensors(folder):
        return ""
    return (
        "its head is tied to the embedding and has a bias of its own, which vLLM does not load; use actor.engine=transformers, "
        "or save the model with an untied head"
    )


@cache
def causal_model_types() -> frozenset[str]:
    """The values of model_type that transformers has a causal language model for; empty where its table cannot be read.

    The table is parsed, not imported: transformers would import torch, which takes seconds.
    """
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        return frozenset()
    try:
        tree = ast.parse((Path(found.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES" in names and isinstance(node, ast.Assign):
            return frozenset(_first_texts(node.value))
    return frozenset()


def _first_texts(table: ast.expr) -> Iterable[str]:
    """The first texts of the pairs in a literal list of pairs."""
    for node in ast.walk(table):
        if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
            value = node.elts[0].value
            if isinstance(value, str):
                yield value
