"""Rotary embeddings with one set of factors for short contexts and another for long ones (longrope, arXiv 2402.13753).

vLLM takes the long factors when its own limit (model.max_context) is beyond the length that the model was first trained on, for
every token, so that cached keys stay valid while a sequence grows. transformers looks at the longest sequence of the forward
pass, so that the numbers of one document would depend on its neighbours in a packed batch. Here the choice is vLLM's.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LONG_ROPE = "longrope"
# what transformers' forward takes for a rope whose frequencies never change
SETTLED = "default"


class _Rope(Protocol):
    """The attributes of transformers' rotary embeddings that matter here."""

    config: PreTrainedConfig
    inv_freq: Tensor
    original_inv_freq: Tensor
    rope_type: str


def settle_long_rope(model: nn.Module, max_context: int) -> int:
    """Fix the factors of every longrope in `model` for contexts of up to `max_context` tokens; returns how many there are."""
    settled = 0
    for module in model.modules():
        if getattr(module, "rope_type", None) == LONG_ROPE:
            _settle(cast("_Rope", module), max_context)
            settled += 1
    return settled


def _settle(rope: _Rope, max_context: int) -> None:
    original = rope.config.rope_parameters["original_max_position_embeddings"]
    if max_context > original:
        frequencies, _ = ROPE_INIT_FUNCTIONS[LONG_ROPE](rope.config, rope.inv_freq.device, seq_len=original + 1)
    else:
        frequencies = rope.original_inv_freq.to(rope.inv_freq.device)
    rope.inv_freq = frequencies.to(torch.float32)
    rope.rope_type = SETTLED
