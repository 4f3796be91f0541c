"""The whole step against a naive oracle: every rollout alone, plain transformers, the formulas written out once more."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from prolong.common.config.algorithm import KL_PAIRS, ObjectiveConfig
from prolong.common.config.choices import Aggregation, Correction, KLEstimator, KLPlacement
from prolong.common.config.sections import Config
from prolong.common.types import Batch, Group, Rollout, float32_array
from prolong.learner.step import Trainer
from torch import Tensor

from tests.support.batches import (
    assert_same_gradient,
    make_policy,
    make_trainer,
    mixed_batch,
    near_policy,
    random_batch,
    small_config,
    solo_logprobs,
    unsettle,
)
from tests.support.tiny_model import make_tiny_model

NAMED_PAIRS = {f"{placement.name}-{estimator.name}": (placement, estimator) for placement, estimator in KL_PAIRS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def naive_terms(
    cfg: Config, policy: torch.nn.Module, reference: torch.nn.Module, group: Group, rollout: Rollout, a: Tensor, bonus: float
) -> Tensor:
    """The loss of each token of a rollout with advantage `a`, for a policy that is still the proximal one."""
    objective, version = cfg.objective, max(span.version for span in rollout.spans)
    b = torch.tensor(float32_array(rollout.behaviour_logprobs)).double()
    t, entropy = solo_logprobs(policy, group, rollout)
    with torch.no_grad():
        s = solo_logprobs(reference, group, rollout)[0] - t
    w = (t - b).exp()
    age = torch.cat([torch.full((span.end - span.start,), float(version - span.version)) for span in rollout.spans]).double()
    alpha = age / (age + 1) if objective.correction is Correction.approximate else torch.ones_like(b)
    proximal = b + alpha * (t.detach() - b)
    ratio, scale = (t - proximal).exp(), (proximal - b).exp().clamp(max=objective.truncation)
    if objective.correction is Correction.bypass:
        ratio, scale = w, torch.ones_like(b)
    in_reward = objective.kl_placement is KLPlacement.reward
    a = a + objective.kl_beta * s if in_reward else a
    ppo = scale * torch.max(-a * ratio, -a * ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high))
    s = solo_logprobs(reference, group, rollout)[0].detach() - t
    cap = w.detach().clamp(max=objective.truncation) / w.detach()
    kl = {
        KLEstimator.k1: cap * w * -s,
        KLEstimator.k2: cap * w.detach() * s**2 / 2,
        KLEstimator.k3: cap * w * (s.exp() - s - 1),
    }[objective.kl_estimator]
    return ppo + (0 if in_reward else objective.kl_beta) * kl - bonus * entropy


def naive_loss(cfg: Config, policy: torch.nn.Module, reference: torch.nn.Module, batch: Batch, bonus: float) -> Tensor:
    groups = []
    for group in batch.groups:
        rewards = torch.tensor([r.verdict.reward for r in group.rollouts], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        pairs = zip(group.rollouts, advantages, strict=True)
        groups.append([naive_terms(cfg, policy, reference, group, rollout, a, bonus) for rollout, a in pairs])
    rollouts = [terms for group in groups for terms in group]
    match cfg.objective.aggregation:
        case Aggregation.token_mean:
            return torch.cat(rollouts).mean()
        case Aggregation.sequence_mean:
            return torch.stack([terms.mean() for terms in rollouts]).mean()
        case Aggregation.sequence_sum:
            return torch.stack([terms.sum() / cfg.objective.length_constant for terms in rollouts]).mean()
        case Aggregation.prompt_mean:
            return torch.stack([torch.cat(group).mean() for group in groups]).mean()


def gradients(trainer: Trainer) -> list[Tensor]:
    return [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]


def check_against_oracle(folder: Path, objective: ObjectiveConfig, bonus: float = 0.0) -> dict[str, float]:
    cfg = small_config(folder)
    cfg.buffer.eta, cfg.objective = 2, objective
    trainer = make_trainer(cfg)
    unsettle(trainer)
    trainer.entropy_coefficient = bonus
    assert trainer.reference is not None
    oracle, reference = make_policy(cfg).causal, trainer.reference.policy.causal
    batch = mixed_batch(groups=3, n=3)
    metrics = trainer.train(batch)
    oracle.set_attn_implementation("sdpa")
    reference.set_attn_implementation("sdpa")
    loss = naive_loss(cfg, oracle, reference, batch, bonus)
    loss.backward()
    assert metrics["learner/loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert_same_gradient(gradients(trainer), [p.grad for p in oracle.parameters() if p.grad is not None])
    return metrics


@pytest.mark.parametrize("correction", list(Correction))
@pytest.mark.parametrize("pair", list(NAMED_PAIRS))
def test_loss_and_gradient_equal_the_naive_oracle(folder: Path, correction: Correction, pair: str) -> None:
    placement, estimator = NAMED_PAIRS[pair]
    weight = KL_PAIRS[placement, estimator]
    metrics = check_against_oracle(
        folder,
        ObjectiveConfig(correction=correction, kl_beta=0.1, kl_placement=placement, kl_estimator=estimator, kl_weight=weight),
    )
    assert metrics["reference/kl"] > 1e-4
    assert (metrics["reference/kl_loss"] == 0) == (placement is KLPlacement.reward)


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_every_aggregation_equals_its_definition(folder: Path, aggregation: Aggregation) -> None:
    check_against_oracle(folder, ObjectiveConfig(aggregation=aggregation, length_constant=20.0, kl_beta=0.1))


def test_the_entropy_bonus_is_the_gradient_of_the_entropy(folder: Path) -> None:
    metrics = check_against_oracle(folder, ObjectiveConfig(entropy_target=5.0, entropy_max=1.0, kl_beta=0.1), bonus=0.3)
    assert metrics["learner/entropy_coefficient"] == 0.3
    assert metrics["learner/loss"] == pytest.approx(
        metrics["policy/loss"] + metrics["reference/kl_loss"] - 0.3 * metrics["learner/entropy"], rel=1e-9
    )


def test_several_minibatches_clip_against_the_policy_at_the_start_of_the_batch(folder: Path) -> None:
    """With a huge step the second mini-batch's ratio is far from 1; with one mini-batch it is exactly 1."""
    cfg = small_config(folder)
    cfg.learner.lr, cfg.objective = 0.05, ObjectiveConfig(kl_beta=0.0, correction=Correction.decoupled)
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
    assert trainer.train(random_batch(2))["reference/kl"] == 0.0
    assert trainer.train(random_batch(3))["reference/kl"] > 0


@pytest.mark.parametrize("batch", [random_batch(0), mixed_batch()], ids=["one temperature", "three temperatures"])
def test_statistics_on_policy_say_so(folder: Path, batch: Batch) -> None:
    trainer = make_trainer(small_config(folder))
    metrics = trainer.train(near_policy(batch, trainer.policy, spread=0.0))
    assert metrics["policy/weight_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/ess"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/kl_behaviour"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["policy/truncated"] == 0.0
    assert metrics["learner/tokens"] == sum(r.num_tokens for g in batch.groups for r in g.rollouts)


def test_the_effective_sample_size_counts_what_the_updates_before_have_changed(folder: Path) -> None:
    """Every update starts from another policy, and the second one finds its tokens further from their sampler."""
    cfg = small_config(folder)
    cfg.learner.lr, cfg.objective = 0.05, ObjectiveConfig(kl_beta=0.0, correction=Correction.bypass)
    whole = make_trainer(cfg)
    batch = near_policy(random_batch(0, groups=4), whole.policy, spread=0.0)
    assert whole.train(batch)["policy/ess"] == pytest.approx(1.0, abs=1e-6)
    cfg.learner.minibatches = 4
    metrics = make_trainer(cfg).train(batch)
    assert metrics["policy/ess"] < 0.999
    assert (metrics["policy/lag_max"], metrics["policy/staleness_0"]) == (3.0, 1.0)


def test_the_rate_of_an_update_is_scaled_by_its_effective_sample_size_and_by_nothing_else(folder: Path) -> None:
    """The same bits as a step with the rate that the recorded number gives."""
    cfg = small_config(folder)
    batch = near_policy(mixed_batch(), make_policy(cfg, dtype=torch.float32), spread=0.6)
    cfg.learner.ess_on_policy = 0.9
    scaled = make_trainer(cfg, dtype=torch.float32)
    metrics = scaled.train(batch)
    factor = math.sqrt(metrics["policy/ess"] / 0.9)
    assert metrics["learner/ess_factor"] == factor < 0.95
    assert metrics["learner/lr"] == cfg.learner.lr
    cfg.learner.ess_on_policy = 0.0
    plain = make_trainer(cfg, dtype=torch.float32)
    assert "learner/ess_factor" not in plain.train(batch, lr_factor=factor)
    for ours, theirs in zip(scaled.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_every_update_of_a_step_has_a_share_of_its_own_and_the_next_step_begins_with_the_whole_rate(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.learner.minibatches, cfg.learner.lr, cfg.learner.ess_on_policy = 2, 0.02, 1.0
    trainer = make_trainer(cfg)
    taken: list[float] = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: [taken.append(trainer.optimizer.param_groups[0]["lr"]), step()]  # type: ignore[method-assign,assignment]
    batch = near_policy(random_batch(0, groups=4), trainer.policy, spread=0.0)
    metrics = trainer.train(batch)
    assert taken[0] == pytest.approx(0.02, rel=1e-6)
    assert taken[1] < 0.0199
    assert metrics["learner/ess_factor"] == pytest.approx(sum(taken) / 2 / 0.02)
    trainer.train(near_policy(random_batch(1, groups=4), trainer.policy, spread=0.0))
    assert taken[2] == pytest.approx(0.02, rel=1e-6)


def test_gradient_clipping_bounds_the_global_norm(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.learner.grad_clip = 1e-3
    trainer = make_trainer(cfg)
    metrics = trainer.train(random_batch(0))
    assert metrics["learner/grad_norm"] > 1e-3
    assert torch.stack([g.norm() for g in gradients(trainer)]).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_staleness_and_shaped_rewards_are_reported_over_the_tokens_and_rollouts_of_the_batch(folder: Path) -> None:
    cfg = small_config(folder)
    cfg.buffer.eta, cfg.rewards.truncated = 3, 0.0
    batch = mixed_batch()
    metrics = make_trainer(cfg).train(batch)
    rollouts = [r for g in batch.groups for r in g.rollouts]
    ages = np.concatenate([[2 - s.version] * (s.end - s.start) for r in rollouts for s in r.spans])
    for k in range(4):
        assert metrics[f"policy/staleness_{k}"] == pytest.approx((ages == k).mean())
    assert 0 < metrics["policy/staleness_1"] < 1
    assert metrics["policy/staleness_3"] == 0
    kept = [r.verdict.reward or 0.0 for g in batch.groups for r in g.rollouts[1:]]
    assert metrics["rewards/shaped_mean"] == pytest.approx(sum(kept) / len(rollouts))
