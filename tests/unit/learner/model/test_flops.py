"""FLOPs of a forward pass against torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from prolong.learner.model.flops import forward_cost
from torch.utils.flop_counter import FlopCounterMode
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gpt_oss import GptOssConfig, GptOssForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def counted(model: PreTrainedModel, length: int) -> float:
    tokens = torch.zeros(1, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_model_takes_what_is_predicted(tied: bool) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tied))
    model.set_attn_implementation("eager")
    cost = forward_cost(model)
    length = 200
    # torch counts the pairs that a causal mask hides too
    pairs = cost.attention[0][1] * length * length
    assert cost.document(length) == pytest.approx(cost.attention[0][1] * length * (length + 1) / 2)
    assert (cost.token + cost.target) * length + pairs == pytest.approx(counted(model, length), rel=0.01)


def test_windows_and_experts_are_those_of_the_configuration() -> None:
    with torch.device("meta"):
        windowed = forward_cost(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=32)))
        experts: dict[str, Any] = SIZES | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 32}
        mixed = forward_cost(GptOssForCausalLM(GptOssConfig(**experts)))
        all_met = forward_cost(GptOssForCausalLM(GptOssConfig(**{**experts, "num_experts_per_tok": 8})))
    assert windowed.attention == ((32, 4.0 * 4 * 16 * 2),)
    assert set(mixed.attention) == {(32, 4.0 * 4 * 16), (None, 4.0 * 4 * 16)}
    assert 0.25 < mixed.token / all_met.token < 0.5
