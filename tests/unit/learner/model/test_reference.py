"""The reference as an exponential average of policies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.choices import Offload
from prolong.common.config.sections import Config
from prolong.learner.main import load_policy, load_reference
from prolong.learner.model.policy import Policy
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks

from tests.support.batches import make_trainer, random_batch, small_config
from tests.support.tiny_model import make_tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return small_config(make_tiny_model(tmp_path / "model", tied=False))


@pytest.fixture
def alone() -> Iterator[Ranks]:
    yield join_ranks(starve_s=5.0, cuda=False, always=True)
    leave_ranks()


def whole(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.full_parameters()}


def test_an_average_is_that_of_the_weights_and_no_reset(cfg: Config) -> None:
    trainer = make_trainer(cfg)
    assert trainer.reference is not None
    expected = whole(trainer.reference.policy)
    for version in range(3):
        trainer.train(random_batch(version))
        trainer.reference.average(trainer.policy, 0.8)
        expected = {name: 0.8 * expected[name] + 0.2 * tensor for name, tensor in whole(trainer.policy).items()}
    for name, tensor in whole(trainer.reference.policy).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-14)
    assert trainer.reference.epoch == 0
    metrics = trainer.train(random_batch(3))
    assert metrics["reference/kl"] > 0


def test_an_average_with_the_reference_itself_changes_no_bit(cfg: Config) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    assert trainer.reference is not None
    before = whole(trainer.reference.policy)
    trainer.reference.average(trainer.policy, 0.9)
    assert all(torch.equal(before[name], tensor) for name, tensor in whole(trainer.reference.policy).items())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
@pytest.mark.parametrize("offload", [Offload.none, Offload.reference])
def test_where_the_model_computes_in_bfloat16_small_steps_of_an_average_are_not_lost(
    cfg: Config, alone: Ranks, offload: Offload
) -> None:
    """A policy at 1 + 1/4: a hundred steps of a thousandth, each below the resolution of bfloat16 at 1."""
    cfg.model.dtype, cfg.learner.offload = "bfloat16", offload
    cfg.stages = [StageConfig(name="a", steps=1), StageConfig(name="b", reference={"ema": 0.999})]
    policy = load_policy(cfg.model, cfg.learner, alone, CPU)
    reference = load_reference(cfg, cfg.model, policy, alone, CPU)
    assert reference is not None
    name = "model.norm.weight"
    for own, start in ((policy, 1.25), (reference.policy, 1.0)):
        own.copy_parameters({key: torch.full_like(t, start) if key == name else t for key, t in whole(own).items()})
    for _ in range(100):
        reference.average(policy, 0.999)
    found = whole(reference.policy)[name]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full_like(found, 1.25 - 0.25 * 0.999**100), rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_a_reference_that_is_never_averaged_stays_in_half_precision(cfg: Config, alone: Ranks) -> None:
    cfg.model.dtype = "bfloat16"
    policy = load_policy(cfg.model, cfg.learner, alone, CPU)
    reference = load_reference(cfg, cfg.model, policy, alone, CPU)
    assert reference is not None
    assert {parameter.dtype for parameter in reference.policy.parameters()} == {torch.bfloat16}
    with pytest.raises(AssertionError, match=r"is torch\.bfloat16"):
        reference.average(policy, 0.9)
