"""Compiled layers and head: the results of others, code that new shapes do not compile again, and a refusal.

torch traces the code as for a GPU, but runs its own operations instead of generated ones, which takes half a minute.
PROLONG_SOAK: with the generated ones.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prolong.common.config.choices import Recompute
from prolong.common.errors import ModelError
from prolong.common.half_head import EntropyUse, HeadForm, differentiation, half_head_logprobs, row_reduction
from prolong.learner.batches.attention import DOCUMENTS_ATTENTION, documents_attention
from prolong.learner.model.policy import build_policy
from prolong.learner.model.reference import AdapterReference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer
from torch._dynamo.utils import counters
from transformers import AttentionInterface, Qwen3ForCausalLM

from tests.support.batches import random_batch, small_config
from tests.support.tiny_model import make_tiny_model

BACKEND = "inductor" if os.environ.get("PROLONG_SOAK") else "eager"
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)  # torch's own


def forget() -> None:
    """Forget everything that was compiled."""
    row_reduction.cache_clear()
    differentiation.cache_clear()
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # vLLM switches compilation off on CPUs, and other tests of this process may have started an engine
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=BACKEND))
    forget()
    counters.clear()
    yield
    forget()
    AttentionInterface.register(DOCUMENTS_ATTENTION, documents_attention)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture
def alone() -> Iterator[Ranks]:
    yield join_ranks(starve_s=5.0, cuda=False, always=True)
    leave_ranks()


def trained(folder: Path, ranks: Ranks, *, compiled: bool) -> list[tuple[dict[str, float], int]]:
    """The metrics of three steps, which have other shapes, and the number of graphs after each."""
    cfg = small_config(folder)
    cfg.model.dtype, cfg.objective.kl_beta = "bfloat16", 0.0
    cpu = torch.device("cpu")
    policy = build_policy(cfg.model, device=cpu, chunk=16, shard=True, recompute=Recompute.true, compiled=compiled)
    trainer = Trainer(StepConfig.of(cfg), policy, None, ranks, cpu)
    return [(trainer.train(random_batch(i, groups=2)), counters["stats"]["unique_graphs"]) for i in range(3)]


def test_compiled_layers_train_as_others_under_fsdp_and_recomputation_and_are_compiled_once(folder: Path, alone: Ranks) -> None:
    plain = trained(folder, alone, compiled=False)
    assert plain[-1][1] == 0
    compiled = trained(folder, alone, compiled=True)
    for (left, _), (right, _) in zip(plain, compiled, strict=True):
        for name in ("learner/loss", "learner/grad_norm", "learner/entropy"):
            # bfloat16: a compiled layer rounds less often
            assert right[name] == pytest.approx(left[name], rel=0.02, abs=2e-3), name
    graphs = [count for _, count in compiled]
    assert graphs[0] > 0
    assert graphs[2] == graphs[1], "new shapes were compiled again"


@pytest.mark.skipif(BACKEND == "eager", reason="PROLONG_SOAK: eleven graphs are compiled")
def test_compiled_layers_with_adapters_train_as_others(folder: Path) -> None:
    """The policy and its reference, which compute with other adapters of the same layers."""
    cfg = small_config(folder)
    cfg.model.lora = {"rank": 4, "targets": ["down_proj"]}
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        policy = build_policy(cfg.model, device=torch.device("cpu"), chunk=64, shard=False, compiled=compiled)
        trainer = Trainer(StepConfig.of(cfg), policy, AdapterReference(policy), Ranks(), torch.device("cpu"))
        for version in (0, 1):
            found.append(trainer.train(random_batch(version, groups=2)))
    assert counters["stats"]["unique_graphs"] > 0
    for plain, made in zip(found[:2], found[2:], strict=True):
        for name in ("learner/loss", "reference/kl", "learner/grad_norm"):
            assert made[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-7), name
    assert found[1]["reference/kl"] > 0


@pytest.mark.parametrize("form", [HeadForm(), HeadForm(scale=1.5, soft_cap=2.0)])
def test_a_compiled_head_has_the_same_values_and_gradients(form: HeadForm) -> None:
    results = []
    for compiled in (False, True):
        generator = torch.Generator().manual_seed(3)
        hidden, weight, bias = (
            torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
            for shape in ((23, 8), (600, 8), (600,))
        )
        tokens, temperature = torch.arange(23) * 25, torch.linspace(0.5, 2.0, 23, dtype=torch.float64)
        values, entropies = half_head_logprobs(
            hidden,
            weight,
            bias,
            tokens,
            temperature=temperature,
            chunk=5,
            entropy=EntropyUse.trained,
            form=form,
            compiled=compiled,
        )
        (values * torch.arange(23) + entropies).sum().backward()
        results.append((values.detach(), entropies.detach(), hidden.grad, weight.grad, bias.grad))
    assert counters["stats"]["unique_graphs"] > 0
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11)


def test_a_family_that_cannot_be_compiled_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qwen3ForCausalLM, "_can_compile_fullgraph", False)
    with pytest.raises(ModelError, match=r"layers of Qwen3ForCausalLM can be compiled; use learner\.compile=false"):
        build_policy(small_config(folder).model, device=torch.device("cpu"), chunk=16, shard=False, compiled=True)
