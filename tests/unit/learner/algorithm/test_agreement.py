"""Sampler and learner are compared on the tokens of the version that trains them, and a run stops before it trains others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from prolong.common.errors import PolicyMismatch, UserError
from prolong.common.types import Batch, VersionSpan
from prolong.learner.algorithm.agreement import ESS, GAP, KL, LEAST_TOKENS, TOKENS, check_agreement, comparable_tokens
from prolong.learner.algorithm.samples import token_staleness
from prolong.learner.step import Trainer

from tests.support.batches import make_trainer, mixed_batch, near_policy, random_batch, small_config
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def trainer_that_checks(folder: Path, *, minibatches: int = 1) -> Trainer:
    cfg = small_config(folder)
    cfg.buffer.eta = 2
    cfg.learner.agreement_tolerance = 1.0
    cfg.learner.minibatches = minibatches
    return make_trainer(cfg)


def test_a_batch_of_this_very_policy_agrees_to_rounding(folder: Path) -> None:
    trainer = trainer_that_checks(folder)
    batch = near_policy(random_batch(0), trainer.policy, spread=0.0)
    metrics = trainer.train(batch)
    assert metrics[TOKENS] == sum(rollout.num_tokens for group in batch.groups for rollout in group.rollouts)
    assert metrics[GAP] < 1e-5
    assert metrics[KL] < 1e-9
    assert metrics[ESS] == pytest.approx(1.0)


def test_figures_are_those_of_the_formulas(folder: Path) -> None:
    cfg = small_config(folder)
    trainer = make_trainer(cfg)
    exact, noisy = (near_policy(random_batch(0), trainer.policy, spread=spread) for spread in (0.0, 0.3))
    metrics = trainer.train(noisy)

    def behaviour(batch: Batch) -> np.ndarray:
        every = [np.frombuffer(rollout.behaviour_logprobs, "<f4") for group in batch.groups for rollout in group.rollouts]
        return np.concatenate(every).astype(np.float64)

    apart = behaviour(exact) - behaviour(noisy)
    weight = np.exp(apart)
    assert metrics[GAP] == pytest.approx(np.abs(apart).mean(), rel=1e-4)
    assert metrics[KL] == pytest.approx((weight - apart - 1).mean(), rel=1e-3)
    assert metrics[ESS] == pytest.approx(weight.sum() ** 2 / (len(weight) * (weight**2).sum()), rel=1e-4)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_run_that_samples_from_another_policy_stops_before_its_policy_changes(folder: Path, minibatches: int) -> None:
    trainer = trainer_that_checks(folder, minibatches=minibatches)
    batch = near_policy(random_batch(0, groups=6), trainer.policy, spread=0.3)
    before = {name: tensor.clone() for name, tensor in trainer.policy.full_parameters()}
    with pytest.raises(PolicyMismatch, match=r"doctor --agreement") as caught:
        trainer.train(batch)
    assert isinstance(caught.value, UserError), "a restart would not help"
    assert caught.value.exit_code == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.policy.full_parameters())


def test_tokens_of_older_versions_are_not_compared(folder: Path) -> None:
    """Rollouts of mixed batches are older in their first part; the noise is on these tokens alone."""
    trainer = trainer_that_checks(folder)
    exact, noisy = (near_policy(mixed_batch(), trainer.policy, spread=spread) for spread in (0.0, 2.0))
    groups = []
    for ours, theirs in zip(exact.groups, noisy.groups, strict=True):
        rollouts = []
        for rollout, other in zip(ours.rollouts, theirs.rollouts, strict=True):
            old = token_staleness(rollout, exact.version) > 0
            values = [np.frombuffer(each.behaviour_logprobs, "<f4") for each in (rollout, other)]
            mixed = np.where(old, values[1], values[0]).astype("<f4").tobytes()
            rollouts.append(msgspec.structs.replace(rollout, behaviour_logprobs=mixed))
        groups.append(msgspec.structs.replace(ours, rollouts=rollouts))
    metrics = trainer.train(msgspec.structs.replace(exact, groups=groups))
    assert metrics[TOKENS] >= LEAST_TOKENS
    assert metrics[GAP] < 1e-5


def test_a_batch_without_a_token_to_compare_says_so(folder: Path) -> None:
    trainer = trainer_that_checks(folder)
    batch = random_batch(0)
    older = msgspec.structs.replace(batch, version=1)
    metrics = trainer.train(older)
    assert metrics[TOKENS] == 0.0
    assert GAP not in metrics


def test_a_nucleus_and_a_cache_of_old_weights_are_left_out() -> None:
    group = random_batch(0).groups[0]
    rollout = group.rollouts[0]
    fresh = np.zeros(rollout.num_tokens, dtype=np.int32)
    cuts = [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.1}]
    cut_groups = [msgspec.structs.replace(group, sampling=msgspec.structs.replace(group.sampling, **cut)) for cut in cuts]
    middle = rollout.num_tokens // 2
    spans = [VersionSpan(version=0, start=0, end=middle), VersionSpan(version=1, start=middle, end=rollout.num_tokens)]
    crossed = msgspec.structs.replace(rollout, spans=spans)
    assert comparable_tokens(group, rollout, fresh, kv_kept=True).all()
    assert not any(comparable_tokens(cut, rollout, fresh, kv_kept=False).any() for cut in cut_groups)
    assert comparable_tokens(group, crossed, fresh, kv_kept=False).all()
    assert not comparable_tokens(group, crossed, fresh, kv_kept=True).any()


def test_few_tokens_are_no_evidence_and_0_checks_nothing() -> None:
    apart = {TOKENS: LEAST_TOKENS - 1.0, GAP: 3.0, KL: 1.0, ESS: 0.1}
    check_agreement(apart, 0.01)
    check_agreement(apart | {TOKENS: 1e6}, 0.0)
    with pytest.raises(PolicyMismatch, match=r"differ by 3 nats.*expected at most 0\.01"):
        check_agreement(apart | {TOKENS: 1e6}, 0.01)
