"""Replacements in vLLM's CPU model runner: the sampler, RMSNorm and rotary embeddings.

Figures: docs/decisions/003-actor-engine.md.

**Sampler.** Its noise depends on (rollout's seed, position) alone. Stock vLLM keeps a torch.Generator per seeded request and
draws from each, one call per request, in every step: 8 % of a tiny model's step. Worse, when a prompt is prefilled in pieces it
rewinds that generator, which a CPU generator cannot do, and the engine dies ("CPU Generator does not use offset"; 0.32.0). A
hash of seed and position (`../../noise.py`) needs no state, so nothing is drawn in a loop and nothing is rewound.

**RMSNorm.** vLLM has a CPU kernel for it (15 us where the eight torch calls of the default cost 70) but uses it on GPUs only.

**Rotary embeddings.** vLLM's CPU kernel takes [tokens, heads * size]. Of [tokens, heads, size], which LFM2 gives it, it rotates
the first head alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

from ...noise import noise_seeds

Rotate = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Rotated = tuple[torch.Tensor, torch.Tensor | None]

# numbers that the RMSNorm kernel takes at once
_VECTOR = 16


def install(runner: Any) -> None:
    """Put them into a vLLM CPU model runner. Every request must have a seed from then on."""
    runner.sampler.topk_topp_sampler.forward = _sampler(runner)
    for module in runner.model.modules():
        plain = type(module) is RMSNorm and module.variance_size_override is None and module.has_weight
        if plain and module.hidden_size % _VECTOR == 0:
            module._forward_method = _rms_norm(module)
        if isinstance(module, RotaryEmbeddingBase):
            module._forward_method = _rotary(module._forward_method)


def _sampler(runner: Any) -> Any:
    def forward(
        logits: torch.Tensor, generators: dict[int, torch.Generator], k: torch.Tensor | None, p: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # vLLM's own generators are not used
        generators.clear()
        batch, rows = runner.input_batch, logits.shape[0]
        seeds = np.fromiter((runner.requests[name].sampling_params.seed for name in batch.req_ids[:rows]), np.int64, rows)
        noise = torch.from_numpy(noise_seeds(seeds, batch.num_tokens_no_spec[:rows]))
        logits = apply_top_k_top_p(logits, k, p).float()
        return torch.ops._C.fused_gumbel_argmax(logits, noise), logits.log_softmax(dim=-1)

    return forward


def _rms_norm(module: Any) -> Any:
    def forward(x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        weight = module.weight.data
        if residual is None:
            out = torch.empty(x.shape, dtype=x.dtype)
            torch.ops._C.rms_norm(out, x.contiguous(), weight, module.variance_epsilon)
            return out
        # in place, as vLLM does on GPUs
        torch.ops._C.fused_add_rms_norm(x, residual, weight, module.variance_epsilon)
        return x, residual

    return forward


def _rotary(original: Rotate) -> Callable[..., Rotated]:
    def forward(
        positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None, *args: torch.Tensor | None
    ) -> Rotated:
        if query.dim() == 2:
            return original(positions, query, key, *args)
        rotated, keys = original(positions, query.flatten(1), None if key is None else key.flatten(1), *args)
        return rotated.view(query.shape), None if key is None else keys.view(key.shape)

    return forward
