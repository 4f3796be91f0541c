"""The whole step against a naive oracle: every rollout alone, plain transformers, the formulas written out once more."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from batches import assert_same_gradient, make_policy, make_trainer, random_batch, small_config
from prolong.common.config import Aggregation, Config, Correction, KLEstimator
from prolong.common.errors import NonFiniteUpdate
from prolong.common.types import Batch, float32_array, int32_array
from prolong.learner.step import Trainer
from tiny_model import make_tiny_model
from torch import Tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def solo_logprobs(causal: torch.nn.Module, prompt: np.ndarray, completion: np.ndarray, temperature: float) -> Tensor:
    tokens = torch.tensor([*prompt, *completion]).long()
    logits = causal(input_ids=tokens[None], use_cache=False).logits[0] / temperature
    return logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[len(prompt) - 1 :, 0]


def naive_loss(cfg: Config, policy: torch.nn.Module, reference: torch.nn.Module, batch: Batch) -> Tensor:
    objective = cfg.objective
    terms, lengths = [], []
    for group in batch.groups:
        rewards = torch.tensor([r.verdict.reward for r in group.rollouts], dtype=torch.float64)
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            a = (reward - rewards.mean()) / (rewards.std() + 1e-6)
            completion = int32_array(rollout.token_ids)
            b = torch.tensor(float32_array(rollout.behaviour_logprobs)).double()
            t = solo_logprobs(policy, int32_array(group.prompt.token_ids), completion, cfg.sampling.temperature)
            with torch.no_grad():
                ref = solo_logprobs(reference, int32_array(group.prompt.token_ids), completion, cfg.sampling.temperature)
            w = (t - b).exp()
            if objective.correction is Correction.bypass:
                ratio, scale = w, torch.ones_like(b)
            else:
                ratio, scale = (t - t.detach()).exp(), w.detach().clamp(max=objective.truncation)
            ppo = scale * torch.max(-a * ratio, -a * ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high))
            s = ref - t
            cap = w.detach().clamp(max=objective.truncation) / w.detach()
            kl = cap * w * (s.exp() - s - 1) if objective.kl_estimator is KLEstimator.k3 else cap * w.detach() * s**2 / 2
            terms.append(ppo + objective.kl_beta * kl)
            lengths.append(len(b))
    if objective.aggregation is Aggregation.sequence_mean:
        return torch.stack([term.mean() for term in terms]).mean()
    return torch.cat(terms).sum() / sum(lengths)


def gradients(trainer: Trainer) -> list[Tensor]:
    return [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("correction", list(Correction))
@pytest.mark.parametrize("estimator", list(KLEstimator))
@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_loss_and_gradient_equal_the_naive_oracle(
    folder: Path, correction: Correction, estimator: KLEstimator, aggregation: Aggregation
) -> None:
    cfg = small_config(folder)
    cfg.objective.correction, cfg.objective.kl_estimator, cfg.objective.aggregation = correction, estimator, aggregation
    trainer = make_trainer(cfg)
    assert trainer.reference is not None
    with torch.no_grad():
        for p in trainer.reference.policy.parameters():
            p.add_(0.02 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1)))
    oracle, reference = make_policy(cfg).causal, trainer.reference.policy.causal
    batch = random_batch(0, groups=3, n=3, longest=12)
    metrics = trainer.train(batch)
    oracle.set_attn_implementation("sdpa")
    reference.set_attn_implementation("sdpa")
    loss = naive_loss(cfg, oracle, reference, batch)
    loss.backward()
    assert metrics["learner/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert_same_gradient(gradients(trainer), [p.grad for p in oracle.parameters() if p.grad is not None])


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_any_split_into_micro_batches_gives_the_same_gradient(folder: Path, aggregation: Aggregation) -> None:
    results = []
    for budget in (30, 100, 100_000):
        cfg = small_config(folder)
        cfg.learner.token_budget, cfg.objective.aggregation = budget, aggregation
        trainer = make_trainer(cfg)
        metrics = trainer.train(random_batch(0))
        results.append((metrics["learner/micro_batches"], gradients(trainer)))
    assert len({count for count, _ in results}) == 3
    for _, other in results[1:]:
        assert_same_gradient(results[0][1], other)


def test_several_minibatches_clip_against_the_policy_at_the_start_of_the_batch(folder: Path) -> None:
    """With a huge step the second mini-batch's ratio is far from 1; with one mini-batch it is exactly 1."""
    cfg = small_config(folder)
    cfg.learner.lr, cfg.objective.kl_beta = 0.05, 0.0
    assert make_trainer(cfg).train(random_batch(0, groups=4))["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-12)
    cfg.learner.minibatches = 4
    metrics = make_trainer(cfg).train(random_batch(0, groups=4))
    assert abs(metrics["policy/ratio_mean"] - 1.0) > 1e-3
    assert metrics["policy/clip_low"] + metrics["policy/clip_high"] > 0


def test_kl_to_the_reference_is_exactly_zero_right_after_a_reset(folder: Path) -> None:
    trainer = make_trainer(small_config(folder), dtype=torch.float32)
    assert trainer.reference is not None
    trainer.train(random_batch(0))
    assert trainer.train(random_batch(1))["reference/kl"] > 0
    trainer.reference.reset(trainer.policy)
    assert trainer.reference.epoch == 1
    assert trainer.train(random_batch(2))["reference/kl"] == 0.0
    assert trainer.train(random_batch(3))["reference/kl"] > 0


def test_statistics_on_policy_say_so(folder: Path) -> None:
    cfg = small_config(folder)
    trainer = make_trainer(cfg)
    batch = random_batch(0)
    with torch.no_grad():
        trainer.policy.causal.set_attn_implementation("sdpa")
        groups = []
        for group in batch.groups:
            rollouts = []
            for r in group.rollouts:
                own = solo_logprobs(trainer.policy.causal, int32_array(group.prompt.token_ids), int32_array(r.token_ids), 1.2)
                rollouts.append(msgspec.structs.replace(r, behaviour_logprobs=own.numpy().astype("<f4").tobytes()))
            groups.append(msgspec.structs.replace(group, rollouts=rollouts))
        trainer.policy.causal.set_attn_implementation("documents")
    metrics = trainer.train(msgspec.structs.replace(batch, groups=groups))
    assert metrics["policy/weight_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/ess"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/kl_behaviour"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["policy/truncated"] == 0.0
    assert metrics["learner/tokens"] == sum(r.num_tokens for g in batch.groups for r in g.rollouts)


def test_a_non_finite_behaviour_logprob_is_counted_and_changes_nothing_else(folder: Path) -> None:
    batch = random_batch(0)
    rollout = batch.groups[0].rollouts[0]
    values = float32_array(rollout.behaviour_logprobs).copy()
    values[0] = math.nan
    batch.groups[0].rollouts[0] = msgspec.structs.replace(rollout, behaviour_logprobs=values.tobytes())
    metrics = make_trainer(small_config(folder)).train(batch)
    assert metrics["policy/non_finite"] == 1
    assert math.isfinite(metrics["learner/loss"])


def poisoned(version: int) -> Batch:
    batch = random_batch(version)
    rollout = batch.groups[1].rollouts[0]
    verdict = msgspec.structs.replace(rollout.verdict, reward=math.inf)
    batch.groups[1].rollouts[0] = msgspec.structs.replace(rollout, verdict=verdict)
    return batch


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # inf - inf is what this test is about
def test_a_non_finite_update_is_skipped_and_counted_and_leaves_the_weights_alone(folder: Path) -> None:
    trainer = make_trainer(small_config(folder))
    before = [p.clone() for p in trainer.policy.parameters()]
    metrics = trainer.train(poisoned(0))
    assert metrics["learner/skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))
    trainer.train(random_batch(1))
    assert trainer.skipped_in_row == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_too_many_skipped_updates_in_a_row_stop_the_run_and_name_the_group(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.learner.max_skipped, cfg.learner.token_budget = 2, 1
    trainer = make_trainer(cfg)
    trainer.train(poisoned(0))
    with pytest.raises(NonFiniteUpdate, match=r"2 updates in a row.*groups \[4\]"):
        trainer.train(poisoned(1))


def test_gradient_clipping_bounds_the_global_norm(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.learner.grad_clip = 1e-3
    trainer = make_trainer(cfg)
    metrics = trainer.train(random_batch(0))
    assert metrics["learner/grad_norm"] > 1e-3
    assert torch.stack([g.norm() for g in gradients(trainer)]).norm().item() == pytest.approx(1e-3, rel=1e-3)
