import json
from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import Device, ModelConfig
from prolong.common.errors import ModelError
from prolong.common.models import context_limit, load_model, resolve_device
from safetensors.torch import load_file, save_file

from tests.support.tiny_model import make_tiny_model


def load(path: Path | str) -> torch.nn.Module:
    return load_model(ModelConfig(path=str(path)), dtype=torch.float32, attention="sdpa")


def test_a_complete_checkpoint_loads_with_its_own_weights(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    stored = load_file(folder / "model.safetensors")
    loaded = dict(load(folder).named_parameters())
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    assert context_limit(str(folder)) == 512


def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a causal LM") as caught:
        load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    with pytest.raises(ModelError, match=r"model\.path"):
        load(folder)


def test_a_setting_of_the_wrong_type_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": "two"}))
    with pytest.raises(ModelError, match=r"num_hidden_layers"):
        load(folder)
    with pytest.raises(ModelError, match=r"num_hidden_layers"):
        context_limit(str(folder))


def test_a_checkpoint_with_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    """An engine would sample an id beyond the vocabulary, or generate for ever what the buffer refuses."""
    folder = make_tiny_model(tmp_path, tied=False)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight holds numbers that are not finite"):
        load(folder)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=False)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.path"):
        load(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"model\.device=cpu"):
        resolve_device(Device.cuda)
    assert resolve_device(Device.auto) == torch.device("cpu")
