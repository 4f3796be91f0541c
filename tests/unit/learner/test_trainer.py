"""The trainer around the loss: stages, the entropy controller, and the number of forwards of a step."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Aggregation, Correction, Loss, Rejection
from prolong.common.config.sections import Config
from prolong.common.half_head import EntropyUse
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.algorithm.objective import needs_proximal_forward
from prolong.learner.batches.packing import MicroBatch
from prolong.learner.step import StepConfig, Trainer
from prolong.learner.stopping import Leaving, StepDropped

from tests.support.batches import make_trainer, mixed_batch, near_policy, random_batch, small_config, variant_config
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def forwards(trainer: Trainer) -> Counter[tuple[bool, EntropyUse]]:
    """Counts the policy's forwards from now on, by (with a gradient, the use of entropies)."""
    counts: Counter[tuple[bool, EntropyUse]] = Counter()
    original = trainer.policy.logprobs

    def counting(micro: MicroBatch, *, entropy: EntropyUse = EntropyUse.skipped) -> Any:
        counts[torch.is_grad_enabled(), entropy] += 1
        return original(micro, entropy=entropy)

    trainer.policy.logprobs = counting  # pyright: ignore[reportAttributeAccessIssue]
    return counts


def needs_proximal(cfg: ObjectiveConfig, updates: int) -> bool:
    return needs_proximal_forward(build_loss(cfg), cfg, updates)


def test_a_forward_for_the_proximal_policy_is_taken_only_where_something_reads_it() -> None:
    decoupled, bypass, approximate = (ObjectiveConfig(correction=c) for c in Correction)
    assert decoupled.correction is Correction.decoupled
    assert approximate.correction is Correction.approximate
    for objective in (decoupled, bypass, approximate):
        assert not needs_proximal(objective, 1)
    assert needs_proximal(decoupled, 2)
    assert not needs_proximal(bypass, 2)
    assert not needs_proximal(approximate, 2)
    assert needs_proximal(ObjectiveConfig(correction=Correction.bypass, rejection=Rejection.geometric), 2)
    assert not needs_proximal(ObjectiveConfig(correction=Correction.bypass, rejection=Rejection.geometric), 1)
    assert not needs_proximal(ObjectiveConfig(correction=Correction.approximate, rejection=Rejection.geometric), 2)
    assert needs_proximal(ObjectiveConfig(loss=Loss.m2po, correction=Correction.bypass), 1)


@pytest.mark.parametrize(("minibatches", "extra"), [(1, 0), (2, 1)])
def test_the_decoupled_objective_takes_one_forward_more_only_with_several_updates(
    folder: Path, minibatches: int, extra: int
) -> None:
    cfg = small_config(folder)
    cfg.learner.minibatches, cfg.objective.correction = minibatches, Correction.decoupled
    trainer = make_trainer(cfg)
    counts = forwards(trainer)
    metrics = trainer.train(random_batch(0, groups=4))
    assert counts[True, EntropyUse.reported] == metrics["learner/micro_batches"]
    assert counts[False, EntropyUse.skipped] == extra * metrics["learner/micro_batches"]


@pytest.mark.parametrize("variant", ["gspo", "icepop", "m2po"])
def test_frozen_proximal_log_probabilities_of_a_first_update_change_nothing(folder: Path, variant: str) -> None:
    """The proximal policy of a batch's first update is the current one, with or without a separate forward."""
    results = []
    for frozen in (False, True):
        trainer = make_trainer(variant_config(folder, variant))
        if frozen:
            fill = trainer._fill_reference

            def also(packed: list[list[MicroBatch]], fill: Any = fill, trainer: Trainer = trainer) -> None:
                for micro in packed[0]:
                    micro.proximal = trainer._frozen_logprobs(micro)
                fill(packed)

            trainer._fill_reference = also
        trainer.train(near_policy(mixed_batch(), trainer.policy))
        results.append([p.detach().clone() for p in trainer.policy.parameters()])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_a_stage_changes_objective_and_learning_rate_and_keeps_the_moments(folder: Path) -> None:
    trainer = make_trainer(small_config(folder))
    trainer.train(random_batch(0))
    moments = deepcopy(trainer.optimizer.state_dict()["state"])
    cfg = small_config(folder)
    cfg.learner.lr, cfg.objective.aggregation, cfg.rewards.truncated = 5e-4, Aggregation.sequence_mean, 0.5
    trainer.configure(StepConfig.of(cfg))
    assert trainer.cfg == StepConfig.of(cfg)
    for key, state in trainer.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[name], moments[key][name]) for name in state)
    before = [p.detach().clone() for p in trainer.policy.parameters()]
    metrics = trainer.train(random_batch(1))
    assert metrics["learner/lr"] == 5e-4
    moved = max(float((a - b.detach()).abs().max()) for a, b in zip(before, trainer.policy.parameters(), strict=True))
    assert moved < 8e-4  # AdamW moves by about lr, here 5e-4 instead of 1e-3
    trainer.reset_optimizer()
    assert trainer.optimizer.param_groups[0]["lr"] == 5e-4


def test_a_step_takes_the_share_of_the_learning_rate_that_it_is_given(folder: Path) -> None:
    halved, lower = make_trainer(small_config(folder)), make_trainer(small_config(folder))
    lower.configure(StepConfig.of(_with_rate(small_config(folder), 5e-4)))
    assert halved.train(random_batch(0), lr_factor=0.5)["learner/lr"] == 5e-4
    lower.train(random_batch(0))
    for a, b in zip(halved.policy.parameters(), lower.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def _with_rate(cfg: Config, lr: float) -> Config:
    cfg.learner.lr = lr
    return cfg


def bonus_config(folder: Path, target: float) -> Config:
    cfg = small_config(folder)
    cfg.objective = ObjectiveConfig(kl_beta=0.1, entropy_target=target, entropy_rate=0.01, entropy_max=0.02)
    return cfg


def test_the_coefficient_of_the_entropy_bonus_follows_the_measured_entropy(folder: Path) -> None:
    trainer = make_trainer(bonus_config(folder, 3.5))
    counts = forwards(trainer)
    expected = 0.0
    for version in range(3):
        metrics = trainer.train(random_batch(version))
        assert metrics["learner/entropy_coefficient"] == pytest.approx(expected)
        assert (counts[True, EntropyUse.trained] > 0) == (expected > 0)
        counts.clear()
        expected = min(max(expected + 0.01 * (3.5 - metrics["learner/entropy"]), 0.0), 0.02)
        assert trainer.entropy_coefficient == pytest.approx(expected)
    assert expected > 0


def test_a_stage_without_a_bonus_has_none_and_one_with_a_lower_limit_keeps_it(folder: Path) -> None:
    trainer = make_trainer(bonus_config(folder, 3.5))
    trainer.entropy_coefficient = 0.02
    cfg = bonus_config(folder, 3.5)
    cfg.objective.entropy_max = 0.015
    trainer.configure(StepConfig.of(cfg))
    assert trainer.entropy_coefficient == 0.015
    trainer.configure(StepConfig.of(bonus_config(folder, 0.0)))
    assert trainer.train(random_batch(0))["learner/entropy_coefficient"] == 0.0
    assert trainer.entropy_coefficient == 0.0


def told_after(questions: int, answer: Leaving) -> Callable[[], Leaving]:
    """`no` so many times, then `answer` for ever."""
    answers = chain([Leaving.no] * questions, repeat(answer))
    return lambda: next(answers)


def everything(trainer: Trainer) -> list[torch.Tensor]:
    """The policy, its moments, and the numbers that the trainer keeps between steps."""
    moments = [value for p in trainer.policy.parameters() for value in trainer.optimizer.state[p].values()]
    numbers = torch.tensor([trainer.skipped, trainer.skipped_in_row, trainer.entropy_coefficient])
    return [tensor.detach().clone() for tensor in (*trainer.policy.parameters(), *moments, numbers)]


def stoppable(folder: Path, minibatches: int) -> Trainer:
    """A trainer with forwards for the reference, the proximal policy, and a micro-batch for each rollout."""
    cfg = small_config(folder)
    cfg.learner.token_budget, cfg.learner.minibatches = 1, minibatches
    cfg.objective.kl_beta, cfg.objective.correction = 0.1, Correction.decoupled
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    return trainer


# there are 12 micro-batches: in the reference forward, in the proximal one, and in the first update, which has 8 of them
@pytest.mark.parametrize("questions", [0, 5, 17, 27])
@pytest.mark.parametrize("answer", [Leaving.soon, Leaving.now])
def test_a_step_that_is_told_to_leave_before_its_first_update_leaves_no_trace(
    folder: Path, questions: int, answer: Leaving
) -> None:
    trainer, undisturbed = stoppable(folder, 2), stoppable(folder, 2)
    before = everything(trainer)
    with pytest.raises(StepDropped) as dropped:
        trainer.train(random_batch(1), told_after(questions, answer))
    assert dropped.value.unchanged
    assert all(map(torch.equal, before, everything(trainer)))
    for each in (trainer, undisturbed):
        each.train(random_batch(1))
    assert all(map(torch.equal, everything(trainer), everything(undisturbed)))


def test_a_step_whose_policy_has_changed_is_finished_while_there_is_time(folder: Path) -> None:
    trainer, undisturbed = stoppable(folder, 2), stoppable(folder, 2)
    trainer.train(random_batch(1), told_after(32, Leaving.soon))
    undisturbed.train(random_batch(1))
    assert all(map(torch.equal, everything(trainer), everything(undisturbed)))
    with pytest.raises(StepDropped) as dropped:
        trainer.train(random_batch(2), told_after(32, Leaving.now))
    assert not dropped.value.unchanged
