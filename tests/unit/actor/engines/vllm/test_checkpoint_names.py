"""Updates reach vLLM under the names that checkpoints have, whatever form transformers keeps the model in."""

from pathlib import Path

import pytest
import torch
from prolong.actor.engines.vllm.checkpoint_names import CheckpointNames
from prolong.common.config.sections import ModelConfig
from prolong.common.errors import ModelError
from prolong.common.models import load_model
from safetensors.torch import load_file
from transformers import MixtralConfig, PhiConfig, PreTrainedConfig, Qwen3Config, Qwen3MoeConfig

from tests.support.tiny_model import family_settings, make_tiny_family

MIXTURES = {
    "mixtral": MixtralConfig(**family_settings(head_dim=32, num_local_experts=4)),
    "qwen3_moe": Qwen3MoeConfig(**family_settings(head_dim=32, num_experts=4, moe_intermediate_size=64)),
}
DENSE = {"qwen3": Qwen3Config(**family_settings(head_dim=32)), "phi": PhiConfig(**family_settings())}


@pytest.mark.parametrize("config", MIXTURES.values(), ids=MIXTURES)
def test_a_mixtures_parameters_get_the_names_and_values_of_its_file(tmp_path: Path, config: PreTrainedConfig) -> None:
    folder = make_tiny_family(tmp_path, config)
    names = CheckpointNames(str(folder))
    model = load_model(ModelConfig(path=str(folder)), dtype=torch.float32, attention="sdpa")
    held = {name: parameter.detach() for name, parameter in model.named_parameters()}
    stored = load_file(folder / "model.safetensors")
    assert names.differ
    assert held.keys() != stored.keys()
    converted = dict(names.convert(held.items()))
    assert converted.keys() == stored.keys()
    assert all(torch.equal(converted[name], stored[name]) for name in stored)


@pytest.mark.parametrize("config", DENSE.values(), ids=DENSE)
def test_a_dense_models_parameters_already_have_the_names_of_its_file(tmp_path: Path, config: PreTrainedConfig) -> None:
    assert not CheckpointNames(str(make_tiny_family(tmp_path, config))).differ


def test_a_model_that_transformers_does_not_know_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ModelError, match="transformers cannot build this model"):
        CheckpointNames(str(tmp_path))
