"""Two ranks that compute in bfloat16 under FSDP2, as on GPUs: uneven shards, a tied head, a KL term, two updates of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.common.config.choices import Correction, Recompute
from safetensors.torch import load_file

from tests.support import rank_script
from tests.support.batches import make_trainer, random_batch, small_config
from tests.support.learner_process import fork_ranks
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module", params=[True, False], ids=["tied head", "head of its own"])
def stepped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the model, what each kind of recompute left behind)."""
    folder = tmp_path_factory.mktemp("bfloat16")
    model = make_tiny_model(tmp_path_factory.mktemp("model"), tied=request.param)
    fork_ranks(rank_script.run, model, folder, "bfloat16", ranks=2, folder=folder)
    return model, folder


def test_a_step_of_two_bfloat16_ranks_is_that_of_one_in_float32_up_to_rounding(stepped: tuple[Path, Path]) -> None:
    model, folder = stepped
    cfg = small_config(model)
    cfg.learner.minibatches = 2
    cfg.objective.correction = Correction.decoupled
    exact = make_trainer(cfg, dtype=torch.float32)
    metrics = exact.train(random_batch(0))
    rounded = load_file(folder / f"{Recompute.false.name}.safetensors")
    assert rounded["learner/grad_norm"].item() == pytest.approx(metrics["learner/grad_norm"], rel=0.05)
    assert rounded["reference/kl"].item() == pytest.approx(metrics["reference/kl"], abs=1e-3)
    own = {name: parameter.grad for name, parameter in exact.policy.causal.named_parameters() if parameter.grad is not None}
    assert {tensor.dtype for name, tensor in rounded.items() if name in own} == {torch.float32}
    mine, theirs = (torch.cat([tensors[name].flatten() for name in own]) for tensors in (own, rounded))
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.98


def test_recompute_changes_no_gradient_by_a_bit(stepped: tuple[Path, Path]) -> None:
    _, folder = stepped
    kept, *again = [load_file(folder / f"{recompute.name}.safetensors") for recompute in Recompute]
    for gradients in again:
        for name, tensor in kept.items():
            if not name.startswith("perf/") and not name.endswith("_s"):
                assert torch.equal(tensor, gradients[name]), name
