"""Attention over documents of unequal length, as a GPU runs it, against the blocks of a CPU."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prolong.bench.tiny_families import FAMILIES, make_family_model
from prolong.learner.batches import attention
from prolong.learner.batches.attention import documents_attention
from prolong.learner.batches.documents import has_varlen_kernel, plan_documents
from prolong.learner.batches.packing import pack
from prolong.learner.batches.varlen import varlen_takes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from tests.support.batches import (
    assert_same_gradient,
    make_policy,
    make_trainer,
    mixed_batch,
    near_policy,
    random_batch,
    samples_under,
    small_config,
    unsettle,
)
from tests.support.tiny_model import make_tiny_model
from tests.support.varlen import VarlenCalls, use_varlen

ROW = 19
# two prompts of 3 and 2 tokens, the first with three completions, the second with two
DOCUMENTS = [
    np.array(document)
    for document in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 6], [0, 1, 2, 7, 8], [9, 10, 11, 12], [9, 10, *range(13, ROW)])
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> VarlenCalls:
    return use_varlen(monkeypatch)


def both_ways(dims: tuple[int, int], dtype: torch.dtype, **settings: Any) -> list[list[Tensor]]:
    """Result and gradients of blocks, and of one launch."""
    generator = torch.Generator().manual_seed(1)
    shapes = (1, 4, ROW, dims[0]), (1, 2, ROW, dims[0]), (1, 2, ROW, dims[1])
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    upstream = torch.randn(1, ROW, 4, dims[1], generator=generator, dtype=torch.float64).to(dtype)
    results = []
    for varlen in (False, True):
        query, key, value = leaves = [part.clone().requires_grad_() for part in inputs]
        plan = replace(plan_documents(DOCUMENTS, ROW), varlen=varlen)
        result, _ = documents_attention(nn.Identity(), query, key, value, None, plan=plan, **settings)
        results.append([result, *torch.autograd.grad(result, leaves, upstream)])
    return results


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("dims", [(8, 8), (6, 6), (12, 8), (8, 13)])
def test_one_launch_gives_results_and_gradients_of_the_blocks(
    calls: VarlenCalls, window: int | None, dims: tuple[int, int]
) -> None:
    blocks, launch = both_ways(dims, torch.float64, sliding_window=window, scaling=0.6)
    assert calls.count == 1
    for expected, got in zip(blocks, launch, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_agree_with_float32_as_well_as_the_blocks_do(calls: VarlenCalls, dtype: torch.dtype) -> None:
    exact = both_ways((8, 8), torch.float32)[0]
    blocks, launch = both_ways((8, 8), dtype)
    rounding = torch.finfo(dtype).eps
    for sharp, expected, got in zip(exact, blocks, launch, strict=True):
        assert (got - sharp).norm() <= 4 * rounding * sharp.norm()
        assert (expected - sharp).norm() <= 4 * rounding * sharp.norm()


def test_a_shared_prompt_is_asked_for_once() -> None:
    plan = plan_documents(DOCUMENTS, ROW)
    assert plan.query_starts.tolist() == [0, 6, 7, 9, 13, 19]
    assert plan.key_starts.tolist() == [0, 6, 10, 15, 19, 27]
    assert (plan.most_queries, plan.longest, len(plan.keys)) == (6, 8, 27)


def test_documents_out_of_order_are_no_plan() -> None:
    with pytest.raises(AssertionError, match="order of the row"):
        plan_documents([np.array([0, 1, 2]), np.array([0, 1]), np.array([0, 3])], 4)


@pytest.mark.parametrize("setting", ["softcap", "s_aux", "dropout"])
def test_what_the_kernel_does_not_know_goes_through_blocks(calls: VarlenCalls, setting: str) -> None:
    value = torch.zeros(4, dtype=torch.float64) if setting == "s_aux" else 1e-9 if setting == "dropout" else 2.0
    both_ways((8, 8), torch.float64, **{setting: value})
    assert calls.count == 0


def test_the_kernel_takes_half_types_and_heads_of_up_to_256_dimensions() -> None:
    def takes(dtype: torch.dtype, width: int, value_width: int) -> bool:
        return varlen_takes(torch.empty(1, 1, 1, width, dtype=dtype), torch.empty(1, 1, 1, value_width, dtype=dtype))

    assert takes(torch.bfloat16, 256, 128)
    assert takes(torch.float16, 64, 64)
    assert not takes(torch.float32, 64, 64)
    assert not takes(torch.bfloat16, 257, 64)
    assert not takes(torch.bfloat16, 64, 264)
    assert not has_varlen_kernel(torch.device("cpu"))


def test_the_installed_torch_has_the_call() -> None:
    """Its arguments by name and place; a GPU runs torch 2.14, where they are the same."""
    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size", "enable_gqa"} <= set(names[7:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 3])
def test_blocks_on_a_gpu_never_meet_the_kernel_that_holds_all_scores(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, window: int | None
) -> None:
    seen = []

    def recording(query: Tensor, key: Tensor, value: Tensor, **settings: object) -> Tensor:
        seen.append((query.shape[1] == key.shape[1] == value.shape[1], settings["enable_gqa"]))
        return query

    monkeypatch.setattr(attention, "on_cuda", lambda _: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    query, key = torch.randn(1, 4, ROW, 8, dtype=dtype), torch.randn(1, 2, ROW, 8, dtype=dtype)
    documents_attention(nn.Identity(), query, key, key, None, plan=plan_documents(DOCUMENTS, ROW), sliding_window=window)
    # flash attention takes fewer key heads, in half types and without a mask; short documents need none
    flash = {(False, True)} if dtype is torch.bfloat16 else {(True, False)}
    assert set(seen) == (flash if window is None or dtype is torch.float32 else {(True, False)})


def test_no_attention_of_a_policy_meets_cudnn_on_a_gpu(tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    make_policy(small_config(make_tiny_model(tmp_path, tied=True)))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_step_launches_once_a_layer_and_micro_batch_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block would be a launch, and a shape, for every handful of documents."""
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    results, passes = [], []
    for varlen in (False, True):
        trainer = make_trainer(cfg)
        unsettle(trainer)
        batch = near_policy(mixed_batch(), trainer.policy)
        calls = use_varlen(monkeypatch) if varlen else None
        metrics = trainer.train(batch)
        passes.append((calls, metrics["learner/micro_batches"], trainer.policy.causal.config.num_hidden_layers))
        results.append((metrics, [p.grad for p in trainer.policy.parameters() if p.grad is not None]))
    (plain, gradient), (launched, other) = results
    assert_same_gradient(gradient, other)
    for name in plain:
        if not name.endswith("_s") and not name.startswith("perf/"):
            assert launched[name] == pytest.approx(plain[name], rel=1e-6, abs=1e-9), name
    calls, micros, layers = passes[1]
    assert calls is not None
    # of the policy and of the reference
    assert calls.count == 2 * layers * micros
    assert len(calls.shapes) <= micros


@pytest.mark.parametrize(
    ("family", "launches"),
    [("mistral-window", 2), ("gemma3", 6), ("cohere2", 4), ("deepseek-v3", 3), ("gemma2", 0), ("gpt-oss", 0)],
)
def test_windows_of_families_are_those_of_the_blocks_and_caps_and_sinks_keep_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, launches: int
) -> None:
    """Windows (one that counts another way: Cohere 2), values narrower than keys (DeepSeek), and what the kernel cannot do."""
    make_family_model(FAMILIES[family], tmp_path)
    cfg = small_config(tmp_path)
    policy = make_policy(cfg, dtype=torch.float32)
    samples = samples_under(cfg, random_batch(0, groups=2, n=3, longest=60))[0]

    def run() -> Tensor:
        (micro,) = pack(samples, token_budget=10_000, layout=policy.layout)
        with torch.no_grad():
            return policy.logprobs(micro)[0]

    expected = run()
    calls = use_varlen(monkeypatch)
    torch.testing.assert_close(run(), expected, rtol=1e-5, atol=2e-5)
    assert calls.count == launches
