"""Attention over documents that share their prompt, without padding and without a mask.

The tokens of a micro-batch lie in one flat row: for every prompt its tokens once, then the completions of its rollouts.
Everything but attention works on single tokens and so sees each prompt once instead of n times. Attention gathers each
rollout's own document (prompt, completion) from the row, runs causal scaled-dot-product attention on it, and scatters the
results back:

    row       p p p a a a b b            positions  0 1 2 3 4 5 3 4
    documents [p p p a a a]              take: indices into the row, one row per document, padded at the end
              [p p p b b .]              put:  for each token of the row, the place of its result among the documents

By construction a document sees only itself. Padding lies after a document's last token, where causal attention hides it.
The function is registered with transformers' AttentionInterface under "documents", for every model that takes its attention
from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

# the name of this attention among transformers' implementations, and in `model.attention`
DOCUMENTS_ATTENTION = "documents"


@dataclass(slots=True)
class DocumentPlan:
    """The places of the documents in a flat row of S tokens."""

    # [sum of N * L] int64: the blocks' indices into the row, block after block; padding repeats a document's last token
    take: Tensor
    # (N, L) of each block: N documents of similar length
    shapes: list[tuple[int, int]]
    # [S] int64: for each token of the row, the place of its result in the order of `take`
    put: Tensor


def documents_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, S, D]
    key: Tensor,  # [1, kv_heads, S, D]
    value: Tensor,  # [1, kv_heads, S, D]
    attention_mask: Tensor | None,
    *,
    plan: DocumentPlan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each document; transformers calls this in every layer. Returns ([1, S, heads, D], None)."""
    assert attention_mask is None, "documents attention takes no mask"
    assert query.shape[0] == 1, "documents lie in one flat row"
    longest = max(length for _, length in plan.shapes)
    if sliding_window is not None and longest > sliding_window:
        raise NotImplementedError(f"a document of {longest} tokens is longer than the sliding window: use model.attention=sdpa")
    dim = query.shape[-1]
    sizes = [count * length for count, length in plan.shapes]
    flat = (part.squeeze(0).transpose(0, 1).flatten(1).index_select(0, plan.take) for part in (query, key, value))
    results = []
    for (count, length), *block in zip(plan.shapes, *(part.split(sizes) for part in flat), strict=True):
        documents = (part.view(count, length, -1, dim).transpose(1, 2) for part in block)  # [N, heads, L, D]
        result = F.scaled_dot_product_attention(
            *documents, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
        )
        results.append(result.transpose(1, 2).reshape(count * length, -1))
    return torch.cat(results).index_select(0, plan.put).view(1, query.shape[2], -1, dim), None


AttentionInterface.register(DOCUMENTS_ATTENTION, documents_attention)
