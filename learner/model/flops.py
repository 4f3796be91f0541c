"""How many FLOPs a model's forward pass takes, read off its parameters and its configuration."""

from __future__ import annotations

from collections import Counter

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..batches.cost import ForwardCost

# names of the number of a layer's experts
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
WINDOWED = "sliding_attention"
ATTENTION_KINDS = {"full_attention", WINDOWED}


def forward_cost(causal: PreTrainedModel) -> ForwardCost:
    """Count a multiplication and an addition for each weight that a token meets, and for each pair of tokens in attention."""
    config = causal.config.get_text_config(decoder=True)
    head = causal.get_output_embeddings()
    tables = {id(module.weight) for module in causal.modules() if isinstance(module, nn.Embedding)}
    body = sum(
        parameter.numel() * (_active_share(config) if ".experts." in name else 1.0)
        for name, parameter in causal.base_model.named_parameters()
        if id(parameter) not in tables
    )
    return ForwardCost(
        token=2.0 * body,
        target=2.0 * head.weight.numel() if isinstance(head, nn.Linear) else 0.0,
        attention=_attention_cost(config),
    )


def _active_share(config: PreTrainedConfig) -> float:
    """The share of a layer's experts that a token meets."""
    count = next((number for name in EXPERT_COUNTS if (number := getattr(config, name, None))), 1)
    return min(1.0, (getattr(config, "num_experts_per_tok", None) or count) / count)


def _attention_cost(config: PreTrainedConfig) -> tuple[tuple[int | None, float], ...]:
    """For each window, the FLOPs of a pair of tokens in all layers that have it."""
    heads = int(config.num_attention_heads) if hasattr(config, "num_attention_heads") else 0
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    window: int | None = getattr(config, "sliding_window", None)
    alike = ["full_attention" if window is None else WINDOWED] * config.num_hidden_layers
    kinds: list[str] = getattr(config, "layer_types", None) or alike
    layers = Counter(window if kind == WINDOWED else None for kind in kinds if kind in ATTENTION_KINDS)
    # scores and their sums of values
    return tuple((seen, 4.0 * heads * width * number) for seen, number in layers.items())
