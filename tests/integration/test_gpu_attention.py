"""The attention of the learner on a GPU: torch's varlen kernel against the blocks in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from prolong.learner.batches.attention import documents_attention
from prolong.learner.batches.documents import DocumentPlan, plan_documents
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.gpu

HEADS, KEY_HEADS = 8, 2


def plan_of(lengths: list[int], prompt: int) -> DocumentPlan:
    """Documents that share a prompt, on the GPU."""
    shared, documents, cursor = np.arange(prompt), [], prompt
    for length in lengths:
        documents.append(np.concatenate((shared, np.arange(cursor, cursor + length))))
        cursor += length
    return plan_documents(documents, cursor).to(torch.device("cuda"))


def attend(plan: DocumentPlan, inputs: list[Tensor], window: int | None = None) -> list[Tensor]:
    """Result and gradients."""
    query, key, value = leaves = [part.detach().requires_grad_() for part in inputs]
    result, _ = documents_attention(nn.Identity(), query, key, value, None, plan=plan, sliding_window=window)
    return [result.detach(), *torch.autograd.grad(result, leaves, torch.ones_like(result) / 8)]


def inputs_of(plan: DocumentPlan, dims: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = (HEADS, dims[0]), (KEY_HEADS, dims[0]), (KEY_HEADS, dims[1])
    tokens = len(plan.put)
    return [torch.randn(1, heads, tokens, dim, generator=generator, device="cuda", dtype=dtype) for heads, dim in shapes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("dims", [(128, 128), (64, 64), (192, 128), (36, 36), (256, 256)])
def test_one_launch_agrees_with_blocks_in_float32(dtype: torch.dtype, window: int | None, dims: tuple[int, int]) -> None:
    plan = plan_of([5, 300, 77, 513, 1], prompt=130)
    assert plan.varlen
    inputs = inputs_of(plan, dims, dtype)
    exact = attend(replace(plan, varlen=False), [part.float() for part in inputs], window)
    for got, expected in zip(attend(plan, inputs, window), exact, strict=True):
        assert (got.float() - expected).norm() <= 8 * torch.finfo(dtype).eps * expected.norm()


def test_no_launch_plans_or_waits_for_the_host() -> None:
    """Twenty micro-batches of other shapes: none runs cuDNN, none reads the device."""
    plans = [plan_of([40 + 3 * i, 500 + i, 200 - i], prompt=64 + i) for i in range(20)]
    batches = [inputs_of(plan, (128, 128), torch.bfloat16) for plan in plans]
    attend(plans[0], batches[0])
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for plan, inputs in zip(plans, batches, strict=True):
                attend(plan, inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    names = " ".join(event.key for event in recorded.key_averages())
    assert "flash" in names
    assert "cudnn" not in names


def test_blocks_in_float32_never_hold_all_scores() -> None:
    """Four documents of 4k tokens: the scores of all heads would take 2 GiB, and the kernel that holds them has copies."""
    plan = plan_of([4096] * 4, prompt=1)
    inputs = inputs_of(plan, (128, 128), torch.float32)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attend(plan, inputs)
    assert torch.cuda.max_memory_allocated() - before < 3 << 29
