"""The call of torch.nn.attention.varlen.varlen_attn on a CPU, written out, with the limits of its kernel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from prolong.learner.batches import packing, varlen
from prolong.learner.batches.documents import DocumentPlan, plan_documents
from torch import Tensor

WIDE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class VarlenCalls:
    """Stands in for the kernel, and counts its calls; `shapes` are those that a kernel might plan for."""

    count: int = 0
    shapes: set[tuple[int, ...]] = field(default_factory=set)

    def __call__(
        self,
        query: Tensor,  # [Tq, heads, D]
        key: Tensor,  # [Tk, kv_heads, D]
        value: Tensor,  # [Tk, kv_heads, D]
        cu_seq_q: Tensor,  # [N + 1]
        cu_seq_k: Tensor,  # [N + 1]
        max_q: int,
        max_k: int,
        *,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool,
    ) -> Tensor:
        self.count += 1
        self.shapes.add((*query.shape, *key.shape))
        width = query.shape[-1]
        assert width == key.shape[-1] == value.shape[-1] <= 256
        assert width % 8 == 0
        assert {part.stride(-1) for part in (query, key, value)} == {1}
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert enable_gqa == (query.shape[1] != key.shape[1])
        assert window_size[1] == 0
        starts_q, starts_k = cu_seq_q.tolist(), cu_seq_k.tolist()
        assert (starts_q[-1], starts_k[-1]) == (len(query), len(key))
        assert (max(np.diff(starts_q)), max(np.diff(starts_k))) == (max_q, max_k)
        # with one query a sequence torch takes another kernel, whose backward pass has other shapes
        assert max_q > 1
        spans = zip(starts_q, starts_q[1:], starts_k, starts_k[1:], strict=False)
        return torch.cat([_one(query[q:r], key[k:m], value[k:m], scale, window_size[0]) for q, r, k, m in spans])


def _one(query: Tensor, key: Tensor, value: Tensor, scale: float, left: int) -> Tensor:
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    # the masks of flash attention are aligned at the end
    places = torch.arange(len(key)) - (torch.arange(len(query)) + len(key) - len(query))[:, None]
    hidden = places > 0 if left < 0 else (places > 0) | (places < -left)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def use_varlen(monkeypatch: pytest.MonkeyPatch) -> VarlenCalls:
    """Send attention the way that it takes on a GPU, for every float type."""
    calls = VarlenCalls()

    def planned(*args: Any) -> DocumentPlan:
        return replace(plan_documents(*args), varlen=True)

    monkeypatch.setattr(varlen, "varlen_attn", calls)
    monkeypatch.setattr(varlen, "KERNEL_TYPES", WIDE)
    monkeypatch.setattr(packing, "plan_documents", planned)
    return calls
