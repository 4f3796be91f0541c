"""Loss scaling: the same step with any factor, and gradients that overflow are no bad update."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import Config
from prolong.learner.checkpoints.checkpoint import LearnerState, load_checkpoint, read_state
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.loss_scale import LARGEST, STEADY, LossScale
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer

from tests.support.batches import make_policy, make_trainer, random_batch, small_config
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def alone() -> Iterator[Ranks]:
    yield join_ranks(starve_s=5.0, cuda=False, always=True)
    leave_ranks()


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=False))
    cfg.model.dtype = "float16"
    return cfg


def half_trainer(cfg: Config, ranks: Ranks) -> Trainer:
    policy, frozen = (make_policy(cfg, trainable=t, shard=True, dtype=torch.float32) for t in (True, False))
    return Trainer(StepConfig.of(cfg), policy, Reference(frozen), ranks, torch.device("cpu"))


def test_the_factor_halves_at_every_overflow_and_doubles_after_a_steady_while() -> None:
    scale = LossScale(factor=4.0, steady=STEADY - 1)
    assert scale.overflowed() == LossScale(factor=2.0, overflows=1)
    assert scale.worked() == LossScale(factor=8.0)
    assert LossScale(factor=1.0).overflowed().factor == 1.0
    assert LossScale(factor=LARGEST, steady=STEADY - 1).worked().factor == LARGEST


def test_a_scaled_loss_gives_the_very_parameters_of_an_unscaled_one(cfg: Config) -> None:
    cfg.model.dtype, cfg.learner.grad_clip = "float32", 0.5
    plain, scaled = (make_trainer(cfg, dtype=torch.float32) for _ in range(2))
    scaled.configure(replace(scaled.cfg, scaled_loss=True))
    scaled.loss_scale = LossScale(factor=1024.0)
    metrics = [trainer.train(random_batch(0)) for trainer in (plain, scaled)]
    assert metrics[0]["learner/grad_norm"] == metrics[1]["learner/grad_norm"] > 0.5
    assert metrics[1]["learner/loss_scale"] == 1024.0
    for one, other in zip(plain.policy.parameters(), scaled.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_float16_trains_and_an_overflow_leaves_the_policy_alone_and_is_no_skipped_update(alone: Ranks, cfg: Config) -> None:
    trainer = half_trainer(cfg, alone)
    trainer.loss_scale = LossScale(factor=2.0**40)
    before = [tensor.clone() for _, tensor in trainer.policy.full_parameters()]
    metrics = trainer.train(random_batch(0))
    assert (metrics["learner/overflows"], metrics["learner/loss_scale"]) == (1, 2.0**39)
    assert (metrics["learner/skipped"], trainer.skipped_in_row) == (0, 0)
    assert all(torch.equal(old, new) for old, (_, new) in zip(before, trainer.policy.full_parameters(), strict=True))
    trainer.loss_scale = LossScale(factor=256.0)
    metrics = trainer.train(random_batch(0))
    cfg.model.dtype = "float32"
    exact = make_trainer(cfg, dtype=torch.float32).train(random_batch(0))
    assert metrics["learner/grad_norm"] == pytest.approx(exact["learner/grad_norm"], rel=0.02)
    assert any(not torch.equal(old, new) for old, (_, new) in zip(before, trainer.policy.full_parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_the_scale_is_saved(cfg: Config, tmp_path: Path) -> None:
    cfg.model.dtype = "float32"
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.loss_scale = scale = LossScale(factor=32.0, steady=7, overflows=3)
    saver = Checkpointer(tmp_path / "saved", Ranks(), dtype="float32", source=None, keep=1)
    saver.save(LearnerState(version=1), trainer)
    saver.close()
    folder = tmp_path / "saved" / "step-00000001"
    trainer.loss_scale = LossScale()
    load_checkpoint(folder, read_state(folder), trainer, Ranks())
    assert trainer.loss_scale == scale
