"""Attention within documents against the formula, written out for one document and one head at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prolong.learner.batches.attention import causal_window, documents_attention
from prolong.learner.batches.documents import plan_documents
from torch import nn

HEADS, KEY_HEADS, DIM, VALUE_DIM = 4, 2, 8, 6
LENGTHS = [3, 9, 17, 12]


def naive(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    window: int | None,
    softcap: float | None,
    sink: float | None,
) -> torch.Tensor:
    """Attention of one head over one document: query and key [L, D], value [L, Dv]."""
    rows = []
    for i in range(len(query)):
        first = 0 if window is None else max(0, i - window + 1)
        scores = key[first : i + 1] @ query[i] * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.exp() / (scores.exp().sum() + (0.0 if sink is None else torch.tensor(sink).exp()))
        rows.append(weights @ value[first : i + 1])
    return torch.stack(rows)


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("extra", ["nothing", "softcap", "sink"])
def test_every_document_gets_its_own_attention(window: int | None, extra: str) -> None:
    generator = torch.Generator().manual_seed(3)
    total = sum(LENGTHS)
    query, key, value = (
        torch.randn(1, heads, total, dim, generator=generator, dtype=torch.float64)
        for heads, dim in ((HEADS, DIM), (KEY_HEADS, DIM), (KEY_HEADS, VALUE_DIM))
    )
    sinks = torch.randn(HEADS, generator=generator, dtype=torch.float64) if extra == "sink" else None
    softcap = 1.5 if extra == "softcap" else None
    starts = np.concatenate(([0], np.cumsum(LENGTHS)))
    documents = [np.arange(start, start + length) for start, length in zip(starts, LENGTHS, strict=False)]
    got, _ = documents_attention(
        nn.Identity(),
        query,
        key,
        value,
        None,
        plan=plan_documents(documents, total),
        scaling=0.7,
        sliding_window=window,
        softcap=softcap,
        s_aux=sinks,
        position_ids=None,
    )
    assert got.shape == (1, total, HEADS, VALUE_DIM)
    for document in documents:
        for head in range(HEADS):
            sources = query[0, head, document], key[0, head // 2, document], value[0, head // 2, document]
            sink = None if sinks is None else float(sinks[head])
            expected = naive(*sources, scaling=0.7, window=window, softcap=softcap, sink=sink)
            assert torch.allclose(got[0, document, head], expected, atol=1e-10)


def test_a_sink_has_a_gradient() -> None:
    sinks = torch.zeros(HEADS, requires_grad=True)
    query, key, value = (torch.randn(1, heads, 6, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    plan = plan_documents([np.arange(6)], 6)
    result, _ = documents_attention(nn.Identity(), query, key, value, None, plan=plan, s_aux=sinks)
    result.square().sum().backward()
    assert sinks.grad is not None
    assert sinks.grad.abs().min() > 0


def test_a_window_of_one_sees_the_token_itself() -> None:
    assert torch.equal(causal_window(4, 1, torch.device("cpu")), torch.eye(4, dtype=torch.bool))
    assert torch.equal(causal_window(4, 4, torch.device("cpu")), torch.ones(4, 4).tril().bool())
