"""Tiny random models of many families of causal language models, for measurements of whether engine and learner agree.

Each family has the settings by which it differs from its neighbours: experts, windows, recurrent layers, caps, tied or biased
heads. Weights are drawn wide enough that a wrong one shows in the log-probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..common.json_object import JsonObject

VOCAB = 96
CONTEXT = 128
BASE: JsonObject = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "dtype": "float32",
}
# the names that families have for a mixture of four experts, of which each token goes to two
EXPERTS: JsonObject = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL_EXPERTS: JsonObject = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED_EXPERTS: JsonObject = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}


@dataclass(frozen=True, slots=True)
class Family:
    """A family, and the settings of its tiny model."""

    name: str
    model_type: str  # transformers' name of its configuration
    kind: str  # what is special about it, for the table
    settings: JsonObject = field(default_factory=dict)
    dtype: str = "float32"  # the only one that vLLM's CPU build has kernels for, or float32

    def config(self) -> JsonObject:
        return BASE | self.settings


LONG_ROPE: JsonObject = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + i / 16 for i in range(16)],
    "long_factor": [2.0 + i / 4 for i in range(16)],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}
MLA: JsonObject = ROUTED_EXPERTS | {
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    # the only sizes that vLLM's kernels know
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
}
LFM2: JsonObject = {
    "conv_dim": 64,
    "block_dim": 64,
    "block_ff_dim": 128,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
}
MAMBA2: JsonObject = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_GPT2: JsonObject = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}

FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "llama", "dense, untied"),
        Family("llama-tied", "llama", "dense, tied head", {"tie_word_embeddings": True}),
        Family("llama-bias", "llama", "biases in attention and MLP", {"attention_bias": True, "mlp_bias": True}),
        Family("mistral", "mistral", "dense"),
        Family("mistral-window", "mistral", "sliding window of 16", {"sliding_window": 16}),
        Family("qwen2", "qwen2", "biases of q, k and v"),
        Family("qwen3", "qwen3", "norms of q and k", {"head_dim": 32}),
        Family("qwen3-moe", "qwen3_moe", "4 experts", EXPERTS | {"head_dim": 32, "norm_topk_prob": True}),
        Family("qwen2-moe", "qwen2_moe", "4 experts and a shared one", EXPERTS | {"shared_expert_intermediate_size": 64}),
        Family(
            "qwen3-next",
            "qwen3_next",
            "hybrid: linear attention; experts",
            EXPERTS
            | {
                "head_dim": 32,
                "num_hidden_layers": 4,
                "shared_expert_intermediate_size": 64,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 2,
                "linear_key_head_dim": 128,
                "linear_value_head_dim": 128,
                "norm_topk_prob": True,
            },
            dtype="bfloat16",
        ),
        Family("gemma", "gemma", "norms of 1 + w, tied", {"head_dim": 32, "tie_word_embeddings": True}),
        Family(
            "gemma2",
            "gemma2",
            "soft caps of attention and head, window of 16",
            {"head_dim": 32, "tie_word_embeddings": True, "sliding_window": 16, "query_pre_attn_scalar": 32},
        ),
        Family(
            "gemma3",
            "gemma3_text",
            "window of 16 in most layers",
            {"head_dim": 32, "tie_word_embeddings": True, "sliding_window": 16, "num_hidden_layers": 6},
        ),
        Family("phi", "phi", "biased head, parallel blocks", {"num_key_value_heads": 2}),
        Family("phi3", "phi3", "fused projections"),
        Family(
            "phi3-longrope",
            "phi3",
            "long rope beyond 64 tokens",
            {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64},
        ),
        Family("phimoe", "phimoe", "experts, biased head", LOCAL_EXPERTS | {"lm_head_bias": True}),
        Family("olmo", "olmo", "norms without weights", {"num_key_value_heads": 2}),
        Family("olmo2", "olmo2", "norms behind blocks", {"num_key_value_heads": 2}),
        Family(
            "olmo3",
            "olmo3",
            "window of 16 in most layers",
            {"num_key_value_heads": 2, "sliding_window": 16, "num_hidden_layers": 4},
        ),
        Family("olmoe", "olmoe", "4 experts", {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2}),
        Family(
            "gpt-oss",
            "gpt_oss",
            "experts with biases, sinks, window of 16",
            LOCAL_EXPERTS | {"head_dim": 32, "sliding_window": 16, "intermediate_size": 64},
        ),
        Family("gpt2", "gpt2", "learned positions, tied", _GPT2 | {"tie_word_embeddings": True}),
        Family("gpt-neox", "gpt_neox", "partial rotation, parallel blocks"),
        Family("gptj", "gptj", "biased head", _GPT2 | {"rotary_dim": 16}),
        Family("opt", "opt", "learned positions", {"ffn_dim": 128, "word_embed_proj_dim": 64, "tie_word_embeddings": True}),
        Family("bloom", "bloom", "ALiBi", {"n_layer": 2, "n_head": 2, "tie_word_embeddings": True}),
        Family("mixtral", "mixtral", "experts", LOCAL_EXPERTS),
        Family("deepseek-v2", "deepseek_v2", "latent attention, experts", MLA | {"topk_method": "greedy"}),
        Family(
            "deepseek-v3",
            "deepseek_v3",
            "latent attention, experts, correction bias",
            MLA | {"num_hidden_layers": 3, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
        ),
        Family("glm", "glm", "partial rotation", {"head_dim": 32}),
        Family("glm4", "glm4", "norms around blocks", {"head_dim": 32}),
        Family("glm4-moe", "glm4_moe", "experts, correction bias", ROUTED_EXPERTS | {"head_dim": 32}),
        Family("smollm3", "smollm3", "layers without positions", {"num_hidden_layers": 4}),
        Family("stablelm", "stablelm", "partial rotation", {"num_key_value_heads": 2}),
        Family("starcoder2", "starcoder2", "biases, tied", {"tie_word_embeddings": True}),
        Family(
            "falcon",
            "falcon",
            "one key head, parallel blocks",
            {"num_key_value_heads": None, "tie_word_embeddings": True, "new_decoder_architecture": False},
        ),
        Family(
            "granite",
            "granite",
            "multipliers",
            {"logits_scaling": 2.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0, "attention_multiplier": 0.2},
        ),
        Family("granitemoe", "granitemoe", "experts, multipliers", LOCAL_EXPERTS),
        Family(
            "granitemoehybrid",
            "granitemoehybrid",
            "hybrid: mamba 2; experts",
            MAMBA2 | LOCAL_EXPERTS | {"shared_intermediate_size": 64, "layer_types": ["mamba", "attention"]},
        ),
        Family("cohere", "cohere", "scaled logits, tied", {"tie_word_embeddings": True}),
        Family(
            "cohere2",
            "cohere2",
            "scaled logits, window of 16",
            {"tie_word_embeddings": True, "sliding_window": 16, "num_hidden_layers": 4},
        ),
        Family("nemotron", "nemotron", "squared ReLU", {"head_dim": 32}),
        Family(
            "nemotron-h",
            "nemotron_h",
            "hybrid: mamba 2",
            {
                "head_dim": 32,
                "hybrid_override_pattern": "M*-",
                "num_hidden_layers": 3,
                "mamba_num_heads": 4,
                "mamba_head_dim": 32,
                "ssm_state_size": 16,
                "n_groups": 1,
                "chunk_size": 16,
            },
        ),
        Family(
            "lfm2",
            "lfm2",
            "hybrid: short convolutions",
            {"layer_types": ["conv", "full_attention"], "tie_word_embeddings": True} | LFM2,
        ),
        Family(
            "lfm2-moe",
            "lfm2_moe",
            "hybrid: short convolutions; experts",
            EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "tie_word_embeddings": True},
        ),
        Family("mamba", "mamba", "recurrent", {"state_size": 8, "tie_word_embeddings": True}),
        Family(
            "mamba2",
            "mamba2",
            "recurrent",
            {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1, "chunk_size": 16, "expand": 2},
        ),
        Family("falcon-h1", "falcon_h1", "hybrid: mamba 2 beside attention", MAMBA2 | {"head_dim": 32, "mamba_d_ssm": 128}),
        Family(
            "jamba",
            "jamba",
            "hybrid: mamba; experts",
            {
                "num_experts": 2,
                "num_experts_per_tok": 1,
                "attn_layer_period": 2,
                "attn_layer_offset": 1,
                "expert_layer_period": 2,
                "expert_layer_offset": 1,
                "use_mamba_kernels": False,
                "mamba_dt_rank": 16,
                "mamba_d_state": 8,
                "num_key_value_heads": 2,
            },
        ),
        Family(
            "exaone4",
            "exaone4",
            "norms behind blocks, window of 16",
            {"sliding_window": 16, "sliding_window_pattern": 4, "num_hidden_layers": 4},
        ),
        Family("ernie4.5", "ernie4_5", "interleaved rotation", {"head_dim": 32}),
        Family(
            "ernie4.5-moe",
            "ernie4_5_moe",
            "experts, correction bias",
            {
                "moe_num_experts": 4,
                "moe_k": 2,
                "moe_intermediate_size": 64,
                "moe_layer_start_index": 1,
                "moe_num_shared_experts": 1,
            },
        ),
        Family(
            "minicpm3",
            "minicpm3",
            "latent attention, multipliers",
            {
                "num_key_value_heads": 2,
                "q_lora_rank": 32,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 32,
                "qk_rope_head_dim": 32,
                "v_head_dim": 32,
            },
        ),
        Family("apertus", "apertus", "xIELU activations"),
        Family("seed-oss", "seed_oss", "biases of q, k and v", {"head_dim": 32, "attention_bias": True}),
        Family("arcee", "arcee", "squared ReLU"),
        Family("helium", "helium", "interleaved rotation", {"head_dim": 32}),
        Family(
            "llama-yarn",
            "llama",
            "YaRN rope",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        Family(
            "llama-dynamic",
            "llama",
            "dynamic NTK rope beyond 64 tokens",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "max_position_embeddings": 128},
        ),
        Family(
            "llama3-rope",
            "llama",
            "Llama 3's rope",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
    )
}


# parts of the names of embeddings and heads
TABLES = ("embed", "lm_head", "wte", "embd")


def make_family_model(family: Family, folder: Path, seed: int = 0) -> None:
    """Write config.json and random weights of the family's tiny model into `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family.model_type, **family.config())
    model = AutoModelForCausalLM.from_config(config)
    draw_weights(model, seed)
    model.save_pretrained(folder)


@torch.no_grad()
def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Draw matrices anew, and shift vectors: norms stay near 1, biases near 0, decays in their range."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2 or "norm" in name:
            parameter.add_(0.1 * noise)
        else:
            # a tied embedding is smaller: with a large one every token predicts itself
            wide = 0.1 if model.config.tie_word_embeddings else 0.25
            table = any(part in name for part in TABLES)
            parameter.copy_(noise * (wide if table else parameter.shape[-1] ** -0.5))
    for name, buffer in model.named_buffers():
        if "bias" in name and buffer.is_floating_point():
            buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
