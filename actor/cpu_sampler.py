"""Noise for vLLM's CPU sampler that depends on (rollout's seed, position) alone.

Stock vLLM keeps a torch.Generator per seeded request and draws from each of them, one call a request, in every step: 8 % of a
tiny model's step. Worse, when a prompt is prefilled in pieces it rewinds that generator, which a CPU generator cannot do: the
engine dies ("CPU Generator does not use offset"; 0.32.0). A hash of seed and position needs no state: nothing is drawn in a
loop, nothing is rewound, and a rollout that is preempted or continued elsewhere meets the noise that it would have met.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def noise_seeds(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """[B] int64, not negative: splitmix64 of seed and position, both [B]."""
    mixed = seeds.astype(np.uint64) * _GOLDEN + positions.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def install(runner: Any) -> None:
    """Make the sampler of a vLLM CPU model runner draw this noise. Every request must have a seed."""

    def forward(
        logits: torch.Tensor, generators: dict[int, torch.Generator], k: torch.Tensor | None, p: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        generators.clear()  # vLLM's own; see above
        batch, rows = runner.input_batch, logits.shape[0]
        seeds = np.fromiter((runner.requests[name].sampling_params.seed for name in batch.req_ids[:rows]), np.int64, rows)
        noise = torch.from_numpy(noise_seeds(seeds, batch.num_tokens_no_spec[:rows]))
        logits = apply_top_k_top_p(logits, k, p).float()
        return torch.ops._C.fused_gumbel_argmax(logits, noise), logits.log_softmax(dim=-1)

    runner.sampler.topk_topp_sampler.forward = forward
