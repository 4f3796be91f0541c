"""The sizes that memory is counted from are those of the models that transformers builds."""

from __future__ import annotations

import pytest
import torch
from prolong.common.errors import ModelError
from prolong.common.json_object import JsonObject
from prolong.launch.plan.model_shape import ModelShape
from transformers import AutoConfig, AutoModelForCausalLM

WIDE: JsonObject = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, JsonObject] = {
    "qwen3": WIDE | {"head_dim": 64},
    "qwen2": WIDE,
    "llama": WIDE | {"tie_word_embeddings": True},
    "mixtral": WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": WIDE | {"head_dim": 64, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 192},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_number_of_parameters_is_that_of_the_model(kind: str) -> None:
    config = AutoConfig.for_model(kind, **FAMILIES[kind])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert ModelShape.of(config.to_dict()).parameters == pytest.approx(expected, rel=0.005)


def test_the_settings_of_a_language_model_may_lie_in_a_section() -> None:
    flat = ModelShape.of({"model_type": "qwen3"} | FAMILIES["qwen3"])
    assert ModelShape.of({"model_type": "other", "text_config": {"model_type": "qwen3"} | FAMILIES["qwen3"]}) == flat


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ModelError, match=r"config.json: expected num_hidden_layers or n_layer above 0"):
        ModelShape.of({name: value for name, value in FAMILIES["qwen2"].items() if name != "num_hidden_layers"})
