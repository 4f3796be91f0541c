"""Odd model folders: each is refused before anything starts, in a sentence that names what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prolong.common.errors import ModelError
from prolong.common.model_folder import (
    INDEX,
    causal_model_types,
    folder_refusal,
    longest_context,
    read_model_config,
    vocabulary_size,
)
from safetensors.torch import load_file, save_file

from tests.support.tiny_model import make_tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def rewrite(folder: Path, **settings: object) -> None:
    """Change settings of config.json; None removes one."""
    changed = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def shard(folder: Path) -> None:
    """Divide the weights into two shards with an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def lose_the_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).unlink()


def keep_torch_weights_alone(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def without_type(folder: Path) -> None:
    rewrite(folder, model_type=None)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no_type": (without_type, "config.json has model_type = None: expected the type of a causal language model"),
    "unknown_type": (lambda f: rewrite(f, model_type="qwen99"), "no causal language model of type qwen99: it is unknown"),
    "own_code": (
        lambda f: rewrite(f, model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}),
        "of type mine: it needs code of its own (auto_map), which is never run here",
    ),
    "encoder_decoder": (lambda f: rewrite(f, model_type="t5", is_encoder_decoder=True), "t5 have an encoder and a decoder"),
    "not_causal": (lambda f: rewrite(f, model_type="vit"), "no causal language model of type vit"),
    "quantized": (lambda f: rewrite(f, quantization_config={"quant_method": "fp8"}), "weights are quantized (fp8)"),
    "multimodal": (lambda f: rewrite(f, vision_config={}), "it also has a vision_config; only text is trained"),
    "no_layers": (lambda f: rewrite(f, num_hidden_layers=0), "num_hidden_layers = 0: expected a whole number above 0"),
    "layers_in_words": (lambda f: rewrite(f, num_hidden_layers="two"), "num_hidden_layers = 'two': expected a whole number"),
    "no_weights": (lambda f: (f / WEIGHTS).unlink(), "it holds no weights; expected model.safetensors"),
    "torch_weights": (keep_torch_weights_alone, "its weights are pytorch_model.bin, which is not read; expected"),
    "no_index": (lose_the_index, f"its weights are in shards, and {INDEX}, which lists them, is missing"),
    "no_shard": (lose_a_shard, "1 of its 2 shards are missing, the first is model-00002-of-00002.safetensors"),
    "cut_off": (cut_off, "it was cut off; fetch it again"),
    "garbage": (lambda f: (f / WEIGHTS).write_bytes(b"garbage"), "model.safetensors is not a safetensors file"),
    "git_lfs": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        "is not a safetensors",
    ),
    "fewer_rows": (lambda f: rewrite(f, vocab_size=80), "vocab_size = 80, the embedding in model.safetensors has 64 rows"),
    "more_rows": (lambda f: rewrite(f, vocab_size=60), "vocab_size = 60, the embedding in model.safetensors has 64 rows"),
}


@pytest.mark.parametrize(("spoil", "said"), ODD.values(), ids=ODD)
def test_an_odd_folder_is_refused_in_one_sentence(
    sound: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    assert folder_refusal(folder) == ""
    spoil(folder)
    refusal = folder_refusal(folder)
    assert said in refusal
    assert "\n" not in refusal


FINE: dict[str, Callable[[Path], object]] = {
    "shards": shard,
    "own_code_of_a_known_type": lambda f: rewrite(f, auto_map={"AutoModelForCausalLM": "mine.Mine"}),
    "half_precision": lambda f: rewrite(f, dtype="float16"),
    "no_end": lambda f: rewrite(f, eos_token_id=None, pad_token_id=None),
    "several_ends": lambda f: rewrite(f, eos_token_id=[1, 0]),
    "no_vocabulary": lambda f: rewrite(f, vocab_size=None),
}


@pytest.mark.parametrize("change", FINE.values(), ids=FINE)
def test_a_folder_that_can_be_trained_is_not_refused(sound: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "model"))
    change(folder)
    assert folder_refusal(folder) == ""


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\xff"])
def test_a_config_that_cannot_be_read_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        read_model_config(tmp_path)


def test_settings_of_the_language_model_are_found_under_their_names() -> None:
    assert vocabulary_size({"vocab_size": 1, "text_config": {"vocab_size": 7}}) == 7
    assert longest_context({"n_positions": 1024}) == 1024
    assert longest_context({"text_config": {"max_position_embeddings": 99}}) == 99
    assert vocabulary_size({"vocab_size": "7"}) is None


def test_the_parsed_table_of_causal_models_is_that_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_model_types() == frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
