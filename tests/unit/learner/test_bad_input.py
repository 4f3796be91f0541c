"""Invalid numbers in a batch: some skip the update, others are only counted, and errors name the group."""

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from prolong.common.config.choices import Advantage
from prolong.common.config.sections import Config
from prolong.common.errors import NonFiniteUpdate
from prolong.common.types import Batch, Rollout, float32_array
from prolong.learner.step import Trainer

from tests.support.batches import (
    VARIANTS,
    make_trainer,
    mixed_batch,
    poison,
    random_batch,
    small_config,
    unsettle,
    variant_config,
)
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.policy.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def changed(batch: Batch, group: int, change: Callable[[Rollout], Rollout]) -> Batch:
    """The batch with another first rollout in one of its groups."""
    members = list(batch.groups)
    rollouts = [change(members[group].rollouts[0]), *members[group].rollouts[1:]]
    members[group] = msgspec.structs.replace(members[group], rollouts=rollouts)
    return msgspec.structs.replace(batch, groups=members)


def with_reward(batch: Batch, group: int, reward: float) -> Batch:
    return changed(
        batch, group, lambda r: msgspec.structs.replace(r, verdict=msgspec.structs.replace(r.verdict, reward=reward))
    )


def with_behaviour(batch: Batch, group: int, value: float) -> Batch:
    def first(rollout: Rollout) -> Rollout:
        values = float32_array(rollout.behaviour_logprobs).copy()
        values[0] = value
        return msgspec.structs.replace(rollout, behaviour_logprobs=values.tobytes())

    return changed(batch, group, first)


def with_equal_rewards(batch: Batch, reward: float) -> Batch:
    groups = []
    for group in batch.groups:
        rollouts = [
            msgspec.structs.replace(r, verdict=msgspec.structs.replace(r.verdict, reward=reward)) for r in group.rollouts
        ]
        groups.append(msgspec.structs.replace(group, rollouts=rollouts))
    return msgspec.structs.replace(batch, groups=groups)


@pytest.mark.parametrize("reward", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("advantage", list(Advantage))
def test_a_reward_that_is_not_finite_skips_the_update_and_leaves_the_weights_alone(
    folder: Path, reward: float, advantage: Advantage
) -> None:
    cfg = small_config(folder)
    cfg.objective.advantage = advantage
    trainer = make_trainer(cfg)
    before = weights(trainer)
    assert trainer.train(with_reward(random_batch(0), 1, reward))["learner/skipped"] == 1
    assert same(before, weights(trainer))
    assert not trainer.optimizer.state
    assert trainer.train(random_batch(1))["learner/skipped"] == 1
    assert (trainer.skipped, trainer.skipped_in_row) == (1, 0)
    assert not same(before, weights(trainer))


def test_a_gradient_that_is_not_finite_skips_the_update_although_the_loss_is_finite(folder: Path) -> None:
    trainer = make_trainer(small_config(folder))
    before = weights(trainer)
    hook = next(iter(trainer.policy.parameters())).register_hook(lambda gradient: gradient * math.nan)
    metrics = trainer.train(random_batch(0))
    assert math.isfinite(metrics["learner/loss"])
    assert metrics["learner/skipped"] == 1
    assert same(before, weights(trainer))
    hook.remove()
    assert trainer.train(random_batch(1))["learner/skipped"] == 1
    assert not same(before, weights(trainer))


@pytest.mark.parametrize("budget", [1, 100_000])
@pytest.mark.parametrize("advantage", list(Advantage))
def test_too_many_skipped_updates_in_a_row_stop_the_run_and_name_the_group(
    folder: Path, budget: int, advantage: Advantage
) -> None:
    cfg = small_config(folder)
    cfg.learner.max_skipped, cfg.learner.token_budget, cfg.objective.advantage = 2, budget, advantage
    trainer = make_trainer(cfg)
    trainer.train(with_reward(random_batch(0), 1, math.inf))
    with pytest.raises(NonFiniteUpdate, match=r"2 updates in a row had a non-finite loss .* from groups \[4\]; lower"):
        trainer.train(with_reward(random_batch(1), 1, math.inf))


def test_without_a_bad_reward_the_groups_of_the_bad_micro_batches_are_named(tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "untied", tied=False))
    cfg.learner.max_skipped, cfg.learner.token_budget = 1, 1
    trainer = make_trainer(cfg)
    with pytest.raises(NonFiniteUpdate, match=r"groups \[5\]"):
        trainer.train(poison(trainer.policy, random_batch(1), 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("variant", ["default", *VARIANTS])
def test_a_behaviour_logprob_that_is_not_finite_counts_as_no_difference_and_is_counted(
    folder: Path, value: float, variant: str
) -> None:
    cfg: Config = small_config(folder) if variant == "default" else variant_config(folder, variant)
    cfg.buffer.eta, cfg.learner.minibatches = 2, 2
    trainer = make_trainer(cfg)
    unsettle(trainer)
    before = weights(trainer)
    metrics = trainer.train(with_behaviour(mixed_batch(), 0, value))
    assert metrics["policy/non_finite"] == 0.5  # one in the first of two updates
    assert metrics["learner/skipped"] == 0
    assert all(math.isfinite(number) for number in metrics.values())
    assert all(torch.isfinite(p).all() for p in trainer.policy.parameters())
    assert not same(before, weights(trainer))


@pytest.mark.parametrize("advantage", list(Advantage))
@pytest.mark.parametrize("variant", ["default", *VARIANTS])
def test_a_batch_without_any_signal_trains_on_what_else_there_is(folder: Path, advantage: Advantage, variant: str) -> None:
    """All rewards equal, .1 of which no sum is exact: advantages are 0, the policy's loss and gradient too."""
    cfg: Config = small_config(folder) if variant == "default" else variant_config(folder, variant)
    cfg.buffer.eta, cfg.objective.advantage = 2, advantage
    cfg.objective.kl_beta, cfg.objective.entropy_target, cfg.learner.weight_decay = 0.0, 0.0, 0.0
    trainer = make_trainer(cfg)
    before = weights(trainer)
    metrics = trainer.train(with_equal_rewards(mixed_batch(), 0.1))
    assert all(math.isfinite(number) for number in metrics.values())
    assert (metrics["policy/loss"], metrics["learner/grad_norm"], metrics["learner/skipped"]) == (0, 0, 0)
    assert same(before, weights(trainer))


def test_a_reward_that_is_missing_is_refused_by_name_of_its_group(folder: Path) -> None:
    batch = changed(
        random_batch(0), 1, lambda r: msgspec.structs.replace(r, verdict=msgspec.structs.replace(r.verdict, reward=None))
    )
    with pytest.raises(ValueError, match="group 1: a rollout without a reward"):
        make_trainer(small_config(folder)).train(batch)
