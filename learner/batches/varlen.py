"""Attention over documents of unequal length in one launch a layer: no padding, no blocks, no kernel per shape.

torch's flash attention takes queries and keys of many sequences one after another, with the places where each starts. Keys and
values are gathered, so that each document is whole; the queries are the flat row as it lies. A document asks only for tokens
that no document before it had, which are its last ones, and causal masks of flash attention are aligned at the end: the first
of q queries on k keys sees k - q + 1 of them. So a shared prompt is attended to once.

torch 2.14 has a second kernel behind the same call (cuDNN, which plans anew for each shape), but not for causal masks.
Source: FlashAttention-2, arXiv 2307.08691.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from .documents import DocumentPlan

# what the kernel takes; its heads have a multiple of HEAD_STEP dimensions, the same for queries, keys and values
KERNEL_TYPES = (torch.float16, torch.bfloat16)
HEAD_LIMIT = 256
HEAD_STEP = 8


def varlen_takes(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel takes tensors of this type and these head dimensions, if the device has it."""
    return query.dtype in KERNEL_TYPES and max(query.shape[-1], value.shape[-1]) <= HEAD_LIMIT


def varlen_attention(
    query: Tensor,  # [1, heads, S, D]
    key: Tensor,  # [1, kv_heads, S, D]
    value: Tensor,  # [1, kv_heads, S, Dv]
    *,
    plan: DocumentPlan,
    window: int | None,
    scale: float,
) -> Tensor:
    """Attend within each document. Returns [1, S, heads, Dv]. window: as in attention.py."""
    width = value.shape[-1]
    common = -(-max(query.shape[-1], width) // HEAD_STEP) * HEAD_STEP
    queries = _rows(query, common)
    keys, values = (_rows(part, common).index_select(0, plan.keys) for part in (key, value))
    result = varlen_attn(
        queries,
        keys,
        values,
        plan.query_starts,
        plan.key_starts,
        plan.most_queries,
        plan.longest,
        scale=scale,
        # tokens that are seen to the left and to the right of a query; (-1, 0) is the causal mask
        window_size=(-1, 0) if window is None or window >= plan.longest else (window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(result, Tensor)
    return result[..., :width].unsqueeze(0)


def _rows(part: Tensor, width: int) -> Tensor:
    """[1, heads, S, D] as [S, heads, width], padded with zeros, which change no product."""
    rows = part[0].transpose(0, 1)
    return rows if part.shape[-1] == width else F.pad(rows, (0, width - part.shape[-1]))
