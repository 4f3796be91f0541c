"""Two real gloo ranks with FSDP2 against one plain rank, on recorded batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import Config
from prolong.learner.checkpoints.checkpoint import LearnerState, load_checkpoint, read_state
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.ranks import Ranks
from safetensors.torch import load_file

from tests.support import rank_script
from tests.support.batches import (
    VARIANTS,
    assert_same_gradient,
    make_policy,
    make_trainer,
    mixed_batch,
    near_policy,
    random_batch,
    small_config,
    unsettle,
    variant_config,
)
from tests.support.learner_process import fork_ranks
from tests.support.tiny_model import make_tiny_model


def run_ranks(model: Path, folder: Path, mode: str, ranks: int = 2) -> None:
    """tests/support/rank_script.py on every rank, in the environment that torchrun would give it."""
    fork_ranks(rank_script.run, model, folder, mode, ranks=ranks, folder=folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def config(model: Path) -> Config:
    cfg = small_config(model)
    cfg.objective.kl_beta = 0.1
    return cfg


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left behind after five steps."""
    folder = tmp_path_factory.mktemp("trained")
    run_ranks(model, folder, "train")
    return folder


def test_two_ranks_have_the_gradient_of_one_and_arrive_at_its_weights(model: Path, trained: Path) -> None:
    trainer = make_trainer(config(model), dtype=torch.float32)
    metrics = trainer.train(random_batch(0))
    gradients = load_file(trained / "gradients.safetensors")
    own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
    assert own.keys() == gradients.keys() - metrics.keys()
    assert_same_gradient(list(own.values()), [gradients[name] for name in own], rel=5e-6)
    assert metrics["learner/loss"] == pytest.approx(gradients["learner/loss"].item(), rel=1e-5)
    for version in (1, 2):
        trainer.train(random_batch(version))
    stored = load_file(trained / "step-00000003" / "model.safetensors")
    for name, tensor in trainer.policy.full_parameters():
        torch.testing.assert_close(stored[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def variants(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients and metrics of two ranks, for each of VARIANTS."""
    folder = tmp_path_factory.mktemp("variants")
    run_ranks(model, folder, "variants")
    return folder


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_ranks_have_the_gradient_of_one_where_the_loss_looks_at_whole_rollouts_or_batches(
    model: Path, variants: Path, name: str
) -> None:
    trainer = make_trainer(variant_config(model, name), dtype=torch.float32)
    unsettle(trainer)
    metrics = trainer.train(near_policy(mixed_batch(), make_policy(variant_config(model, name))))
    stored = load_file(variants / f"{name}.safetensors")
    own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
    # both are float32, in sums of another order
    assert_same_gradient(list(own.values()), [stored[name] for name in own], rel=5e-6)
    for key in metrics:
        if not key.endswith(("_s", "micro_batches")) and not key.startswith("perf/"):
            assert stored[key].item() == pytest.approx(metrics[key], rel=1e-5, abs=1e-6), key


def test_every_rank_names_the_groups_of_a_skipped_update_wherever_they_lie(tmp_path: Path) -> None:
    run_ranks(make_tiny_model(tmp_path / "untied", tied=False), tmp_path, "blame")
    errors = {(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)}
    assert len(errors) == 1
    assert "groups [5]; lower learner.lr" in errors.pop()


def test_two_ranks_resume_to_the_bit_and_one_rank_resumes_what_two_wrote(model: Path, trained: Path, tmp_path: Path) -> None:
    run_ranks(model, trained, "resume")
    whole, resumed = (load_file(trained / name / "model.safetensors") for name in ("step-00000005", "resumed/step-00000005"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    cfg = config(model)
    cfg.model.path = str(trained / "step-00000003")
    trainer = make_trainer(cfg, dtype=torch.float32)
    load_checkpoint(trained / "step-00000003", read_state(trained / "step-00000003"), trainer, Ranks())
    for version in (3, 4):
        trainer.train(random_batch(version))
    for name, tensor in trainer.policy.full_parameters():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-4, atol=1e-5)
    saver = Checkpointer(tmp_path / "one", Ranks(), dtype="float32", source=None, keep=1)
    saver.save(LearnerState(version=5), trainer)  # and writes one itself
    saver.close()
