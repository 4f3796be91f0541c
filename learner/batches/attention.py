"""Attention over documents that share their prompt, without padding and without a mask.

The tokens of a micro-batch lie in one flat row: for every prompt its tokens once, then the completions of its rollouts.
Everything but attention works on single tokens and so sees each prompt once instead of n times. Attention gathers each
rollout's own document (prompt, completion) from the row:

    row       p p p a a a b b            positions  0 1 2 3 4 5 3 4
    documents [p p p a a a] [p p p b b]

A GPU runs one kernel for documents of unequal length (varlen.py) where that kernel knows the model's attention. Everything else
runs causal scaled-dot-product attention on blocks of documents of similar length, and scatters the results back. By
construction a document sees only itself. Padding lies after a document's last token, where causal attention hides it.
The function is registered with transformers' AttentionInterface under "documents", for every model that takes its attention
from there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from ..context import ContextGroup
from .documents import DocumentPlan, plan_documents
from .varlen import HEAD_LIMIT, KERNEL_TYPES, varlen_attention, varlen_takes

# the name of this attention among transformers' implementations, and in `model.attention`
DOCUMENTS_ATTENTION = "documents"


class AttentionForm(NamedTuple):
    """What a layer's attention does, by the arguments of `documents_attention`."""

    scale: float
    window: int | None
    dropout: float
    softcap: float | None
    sink: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether it is softmax of scores and nothing else, but for a window."""
        return self.softcap is None and self.sink is None and self.dropout == 0.0


class PlanArrived(Exception):
    """PROBE has reached the attention function."""


# a plan that ends the forward pass where it arrives
PROBE = plan_documents([np.arange(1)], 1)


def documents_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, S, D]
    key: Tensor,  # [1, kv_heads, S, D]
    value: Tensor,  # [1, kv_heads, S, Dv]
    attention_mask: Tensor | None,
    *,
    plan: DocumentPlan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each document; transformers calls this in every layer. Returns ([1, S, heads, Dv], None).

    sliding_window: a token sees itself and the sliding_window - 1 tokens before it. softcap: scores are softcap * tanh(score /
    softcap). s_aux [heads]: scores of a sink, which takes part in the softmax and has no value (GPT-OSS).
    """
    if plan is PROBE:
        raise PlanArrived
    assert attention_mask is None, "documents attention takes no mask"
    assert query.shape[0] == 1, "documents lie in one flat row"
    form = AttentionForm(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        dropout=dropout,
        softcap=softcap,
        sink=s_aux,
    )
    if plan.context is None:
        return _attend(query, key, value, plan, form), None
    return _attend_in_turn(query, key, value, plan, form, plan.context), None


def _attend_in_turn(
    query: Tensor, key: Tensor, value: Tensor, plan: DocumentPlan, form: AttentionForm, context: ContextGroup
) -> Tensor:
    """`_attend` for a rank that has some tokens of the row: it attends to all of them, with some of the heads."""
    filled, tokens = query.shape[2] * context.size, len(plan.put)
    query, key, value = (context.to_heads(part)[:, :, :tokens] for part in (query, key, value))
    if form.sink is not None:
        form = form._replace(sink=context.own_heads(form.sink))
    result = _attend(query, key, value, plan, form)
    return context.to_tokens(F.pad(result, (0, 0, 0, 0, 0, filled - tokens)))


def _attend(query: Tensor, key: Tensor, value: Tensor, plan: DocumentPlan, form: AttentionForm) -> Tensor:
    """Attend within each document of the row. Returns [1, S, heads, Dv]."""
    if plan.varlen and form.plain and varlen_takes(query, value):
        return varlen_attention(query, key, value, plan=plan, window=form.window, scale=form.scale)
    sizes = [count * length for count, length in plan.shapes]
    flat = [part.squeeze(0).transpose(0, 1).index_select(0, plan.take) for part in (query, key, value)]  # [N * L, heads, D]
    results = []
    for (count, length), *block in zip(plan.shapes, *(part.split(sizes) for part in flat), strict=True):
        documents = [part.unflatten(0, (count, length)).transpose(1, 2) for part in block]  # [N, heads, L, D]
        window = None if form.window is None or length <= form.window else form.window
        if form.softcap is not None:
            result = _capped_attention(*documents, window=window, scale=form.scale, dropout=form.dropout, softcap=form.softcap)
        else:
            result = _causal_attention(*documents, window=window, scale=form.scale, dropout=form.dropout, sink=form.sink)
        results.append(result.transpose(1, 2).reshape(count * length, -1))
    return torch.cat(results).index_select(0, plan.put).view(1, query.shape[2], query.shape[1], -1)


def _causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float, dropout: float, sink: Tensor | None
) -> Tensor:
    """Attention of torch over whole documents [N, heads, L, D]."""
    if sink is not None:
        query, key, value = _with_sink(query, key, value, sink / scale)
    mask = None
    if window is not None:
        mask = causal_window(query.shape[2], window, query.device)
        if sink is not None:
            mask[:, 0] = True
    if on_cuda(query) and not _flash_takes(query, value, mask):
        # without flash attention only the kernel that holds all scores would know fewer key heads than heads
        key, value = _equal_heads(query, key, value)
    result = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        # of the dimension before a sink was added
        scale=scale,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result if sink is None else result[:, :, 1:]


def avoid_planning() -> None:
    """Let torch's attention on a GPU choose among the kernels that take any shape alike, for the whole process.

    torch prefers cuDNN's on recent GPUs, which plans anew for every shape, for tenths of a second; no shape of packed documents
    comes twice.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def on_cuda(query: Tensor) -> bool:
    """Whether torch would choose among the kernels of a GPU."""
    return query.is_cuda


def _flash_takes(query: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether torch's flash attention takes these tensors of a GPU."""
    width = query.shape[-1]
    return mask is None and query.dtype in KERNEL_TYPES and width == value.shape[-1] <= HEAD_LIMIT


def _equal_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the heads of key and value: one for each head of the query."""
    times = query.shape[1] // key.shape[1]
    return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)


def _with_sink(query: Tensor, key: Tensor, value: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put a token before each document whose key has the same product with every query, `score` [heads], and whose value is 0.

    One more dimension carries that product, 1 in the queries and `score` in the sink's key.
    torch's kernels want a multiple of 8.
    """
    heads = query.shape[1]
    key, value = _equal_heads(query, key, value)
    query = F.pad(F.pad(query, (0, 1), value=1.0), (0, 7, 1, 0))
    sink = F.pad(score.to(key).view(1, heads, 1, 1), (key.shape[-1], 7))
    key = torch.cat((sink.expand(key.shape[0], -1, -1, -1), F.pad(key, (0, 8))), dim=2)
    return query, key, F.pad(value, (0, 0, 1, 0))


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float, dropout: float, softcap: float
) -> Tensor:
    """Attention with capped scores, which torch has no kernel for: it holds the scores of all pairs of tokens."""
    key, value = _equal_heads(query, key, value)
    scores = query @ key.transpose(2, 3) * scale
    scores = softcap * torch.tanh(scores / softcap)
    length = query.shape[2]
    visible = causal_window(length, length if window is None else window, query.device)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1, dtype=torch.promote_types(query.dtype, torch.float32))
    return F.dropout(weights, dropout).to(value.dtype) @ value


def causal_window(length: int, window: int, device: torch.device) -> Tensor:
    """[L, L] bool: whether a token (row) sees another one (column), itself and the window - 1 tokens before it."""
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return visible.triu_(1 - window)


AttentionInterface.register(DOCUMENTS_ATTENTION, documents_attention)
