"""Micro-batches are bookkeeping: however a mini-batch is split, its gradient is the same, also where the loss looks at
whole rollouts, prompts or the whole batch. tests/integration/test_learner_ranks.py says the same of ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prolong.common.config.choices import Aggregation, Straggler
from prolong.common.config.sections import Config
from prolong.learner.algorithm.losses.second_moment import second_moment_bounds
from prolong.learner.batches.packing import MicroBatch, Sample
from prolong.learner.ranks import Ranks
from prolong.learner.step import Trainer
from torch import Tensor

from tests.support.batches import (
    VARIANTS,
    assert_same_gradient,
    make_trainer,
    mixed_batch,
    near_policy,
    random_batch,
    samples_under,
    small_config,
    solo_logprobs,
    unsettle,
    variant_config,
)
from tests.support.tiny_model import make_tiny_model

BUDGETS = (1, 60, 150, 100_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def gradients(trainer: Trainer) -> list[Tensor]:
    return [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]


def assert_splits_agree(cfg: Config) -> dict[str, float]:
    """For every budget the same gradient and metrics; returns the metrics."""
    results = []
    for budget in BUDGETS:
        cfg.learner.token_budget = budget
        trainer = make_trainer(cfg)
        unsettle(trainer)
        metrics = trainer.train(near_policy(mixed_batch(), trainer.policy))
        assert metrics["learner/skipped"] == 0
        results.append((metrics, gradients(trainer)))
    counts = {metrics["learner/micro_batches"] for metrics, _ in results}
    assert len(counts) >= (3 if cfg.model.attention == "documents" else 2)
    for metrics, other in results[1:]:
        assert_same_gradient(results[0][1], other)
        for name in metrics:
            if not name.endswith(("_s", "micro_batches", "grad_norm")) and not name.startswith(
                "perf/"
            ):  # norms compute in float32
                assert metrics[name] == pytest.approx(results[0][0][name], rel=1e-6, abs=1e-9), name
    return results[0][0]


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_any_split_gives_the_same_gradient_for_every_aggregation(folder: Path, aggregation: Aggregation) -> None:
    cfg = small_config(folder)
    cfg.objective.aggregation = aggregation
    assert_splits_agree(cfg)


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("attention", ["documents", "sdpa"])
def test_any_split_gives_the_same_gradient_where_whole_rollouts_matter(folder: Path, name: str, attention: str) -> None:
    cfg = variant_config(folder, name)
    cfg.model.attention = attention
    metrics = assert_splits_agree(cfg)
    assert (metrics["policy/rejected"] > 0) == (name != "m2po")
    assert metrics["policy/rejected"] < 0.9
    assert metrics["policy/clip_low"] + metrics["policy/clip_high"] > 0 or name in ("gspo", "icepop")  # whose ratio is 1 here


@pytest.mark.parametrize("name", list(VARIANTS))
def test_any_split_gives_the_same_gradient_in_the_second_update_and_with_masked_tokens(folder: Path, name: str) -> None:
    cfg = variant_config(folder, name)
    cfg.learner.minibatches, cfg.buffer.straggler, cfg.buffer.eta = 2, Straggler.mask, 1
    metrics = assert_splits_agree(cfg)
    assert 0 < metrics["learner/masked_tokens"] < metrics["learner/tokens"]


def test_the_bounds_of_m2po_are_those_of_all_tokens_of_the_mini_batch(folder: Path) -> None:
    cfg = variant_config(folder, "m2po")
    cfg.learner.token_budget = 40
    trainer = make_trainer(cfg)
    batch = near_policy(mixed_batch(), trainer.policy)
    (samples,) = samples_under(cfg, batch)
    log_ratios, advantages = [], []
    pairs = [(group, rollout) for group in batch.groups for rollout in group.rollouts]
    trainer.policy.causal.set_attn_implementation("sdpa")
    for sample, (group, rollout) in zip(samples, pairs, strict=True):
        with torch.no_grad():
            log_ratios.append(solo_logprobs(trainer.policy.causal, group, rollout)[0] - torch.tensor(sample.behaviour))
        advantages.append(torch.full((len(sample.completion),), sample.advantage))
    trainer.policy.causal.set_attn_implementation("documents")
    low, high = second_moment_bounds(torch.cat(log_ratios), torch.cat(advantages), budget=0.075)
    assert low < 0.7
    assert high > 1.5
    metrics = trainer.train(batch)
    assert metrics["policy/m2po_bound"] == pytest.approx(high, rel=1e-6)
    assert metrics["policy/clip_high"] > 0


def test_a_single_rank_gathers_its_own_ragged_tensor() -> None:
    (part,) = Ranks().gather_ragged(torch.arange(6.0).view(2, 3))
    assert np.array_equal(part, np.arange(6.0).reshape(2, 3))
    (empty,) = Ranks().gather_ragged(torch.zeros(2, 0))
    assert empty.shape == (2, 0)


def test_a_batch_of_which_every_token_is_too_old_changes_only_by_weight_decay(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.buffer.straggler, cfg.learner.weight_decay = Straggler.mask, 0.0
    for name in VARIANTS:
        cfg.objective = variant_config(folder, name).objective
        cfg.buffer.eta = 0
        trainer = make_trainer(cfg)
        before = [p.clone() for p in trainer.policy.parameters()]
        batch = random_batch(3)
        batch = type(batch)(generation=1, version=5, groups=batch.groups)
        metrics = trainer.train(batch)
        assert metrics["learner/masked_tokens"] == metrics["learner/tokens"]
        assert (metrics["learner/loss"], metrics["learner/skipped"], metrics["policy/staleness_0"]) == (0, 0, 0)
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_spare_micro_batches_change_neither_gradient_nor_metrics_nor_bounds(folder: Path, name: str) -> None:
    results = []
    for spares in (0, 2):
        trainer = make_trainer(variant_config(folder, name))
        unsettle(trainer)
        pack_all = trainer._pack

        def with_spares(samples: list[Sample], pack_all: Any = pack_all, spares: int = spares) -> list[MicroBatch]:
            micros = pack_all(samples)
            return micros + [replace(micro, weight=torch.zeros_like(micro.weight)) for micro in micros[:spares]]

        trainer._pack = with_spares
        results.append((trainer.train(near_policy(mixed_batch(), trainer.policy)), gradients(trainer)))
    (plain, gradient), (spared, other) = results
    assert_same_gradient(gradient, other, rel=1e-12)
    assert spared["learner/micro_batches"] == plain["learner/micro_batches"] + 2
    names = [key for key in plain if not key.endswith(("_s", "micro_batches")) and not key.startswith("perf/")]
    assert [spared[key] for key in names] == pytest.approx([plain[key] for key in names], rel=1e-12)
