"""verl's advantages, KL estimators and overlong penalty, and ours."""

# pyright: reportMissingImports=false
# TRL and verl are in .venv-parity alone

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prolong.common.config.algorithm import RewardsConfig
from prolong.common.config.choices import Advantage, KLEstimator, KLPlacement, KLWeight
from prolong.learner.algorithm.advantages import LEAST_VARIANCE
from prolong.learner.algorithm.kl import kl_in_reward, kl_penalty
from prolong.learner.algorithm.rewards import shape_rewards
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.workers.reward_manager.dapo import DAPORewardManager

from tests.parity import ours, verl_side
from tests.parity.rollouts import make_rollouts
from tests.parity.test_trl_losses import words
from tests.parity.test_verl_losses import AGGREGATIONS

ADVANTAGES = [
    ("grpo", {}, Advantage.group_std),
    ("grpo_vectorized", {}, Advantage.group_std),
    ("grpo", {"norm_adv_by_std_in_grpo": False}, Advantage.group_mean),
    ("rloo", {}, Advantage.leave_one_out),
    ("rloo_vectorized", {}, Advantage.leave_one_out),
]


@pytest.mark.parametrize(("estimator", "settings", "kind"), ADVANTAGES)
def test_advantages_agree(estimator: str, settings: dict, kind: Advantage, agree: Callable) -> None:
    rollouts = make_rollouts(9)
    theirs = verl_side.advantages_of(rollouts, estimator, **settings)
    name = f"verl {estimator}" + ", norm_adv_by_std_in_grpo=False" * bool(settings)
    atol = 1e-6 if estimator == "grpo_vectorized" else 1e-9  # its means are float32
    agree(name, f"advantage={kind.name}", theirs, ours.advantages_of(rollouts, kind), atol=atol)


def test_global_norm_agrees_but_for_one_token_in_the_variance(agree: Callable) -> None:
    """verl divides the squares by N - 1 and adds 1e-8 to the variance, ours by N, and at least 1e-8."""
    rollouts = make_rollouts(9)
    theirs = verl_side.advantages_of(rollouts, "reinforce_plus_plus_baseline")
    mine = ours.advantages_of(rollouts, Advantage.global_norm)
    tokens = rollouts.lengths.sum().double()
    variance = ((ours.advantages_of(rollouts, Advantage.group_mean) ** 2) * rollouts.lengths).sum() / tokens
    mean = (ours.advantages_of(rollouts, Advantage.group_mean) * rollouts.lengths).sum() / tokens
    variance = variance - mean**2
    assert (theirs - mine).abs().max() > 1e-4
    rescaled = mine * (variance / (variance * tokens / (tokens - 1) + LEAST_VARIANCE)).sqrt()
    agree("verl reinforce_plus_plus_baseline", "advantage=global_norm, with N - 1 for N", theirs, rescaled)


def test_a_lone_rollout_keeps_its_reward_in_verl_and_gets_zero_here() -> None:
    rollouts = make_rollouts(9, size=1)
    for estimator in ("grpo", "rloo"):
        theirs = verl_side.advantages_of(rollouts, estimator)
        torch.testing.assert_close(theirs, rollouts.rewards, atol=1e-5, rtol=0)
    for kind in (Advantage.group_std, Advantage.leave_one_out):
        assert not ours.advantages_of(rollouts, kind).any()


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_the_entropy_bonus_agrees(mode: str, agree: Callable) -> None:
    rollouts, mine = make_rollouts(9), AGGREGATIONS[mode]
    entropy = rollouts.policy.square()
    theirs = core_algos.agg_loss(rollouts.padded(entropy), rollouts.mask.double(), mode)
    cfg = ours.objective(**mine)
    own = ours.loss_of(rollouts, cfg) - ours.loss_of(rollouts, cfg, entropy=entropy, bonus=0.2)
    agree(f"verl entropy_coeff; {mode}", f"{words(mine)}, the entropy bonus", 0.2 * theirs.reshape(1), own[:1])


def test_the_overlong_penalty_agrees(agree: Callable) -> None:
    lengths, longest = torch.arange(1, 101), 100
    responses = torch.ones(len(lengths), longest, dtype=torch.int64)
    attended = (torch.arange(longest) < lengths[:, None]).long()
    tensors = {
        "prompts": responses[:, :1],
        "responses": responses,
        "attention_mask": torch.cat([responses[:, :1], attended], dim=1),
    }
    rows = {"reward_model": [{"ground_truth": ""}] * longest, "source": [""] * longest}
    data = DataProto.from_dict(tensors=tensors, non_tensors={key: np.array(value, dtype=object) for key, value in rows.items()})
    manager = DAPORewardManager(
        tokenizer=SimpleNamespace(decode=lambda *_, **__: "", eos_token="end"),
        num_examine=0,
        compute_score=lambda **_: 0.5,
        reward_fn_key="source",
        max_resp_len=longest,
        overlong_buffer_cfg=SimpleNamespace(enable=True, len=20, penalty_factor=0.7, log=False),
    )
    theirs = manager(data).sum(dim=1)
    cfg = RewardsConfig(overlong_share=0.2, overlong_penalty=0.7)
    rewards, truncated = np.full(longest, 0.5), (lengths == longest).numpy()
    mine = shape_rewards(rewards, lengths.numpy(), truncated, max_tokens=longest, version=0, cfg=cfg)
    words_of_ours = "overlong_share=0.2, overlong_penalty=0.7"
    agree(
        "verl DAPORewardManager", words_of_ours, theirs.double(), torch.from_numpy(mine), atol=1e-6
    )  # its rewards are float32


@pytest.mark.parametrize("name", ["low_var_kl", "k3"])
def test_the_reported_k3_agrees(name: str, agree: Callable) -> None:
    rollouts = make_rollouts(10)
    theirs = core_algos.kl_penalty(rollouts.policy, rollouts.reference, name)
    mine = kl_penalty(rollouts.policy, rollouts.reference, rollouts.behaviour, ours.objective())[1]
    agree(f"verl kl_penalty {name}", "the reported KL", theirs, mine)


def test_k1_in_the_reward_agrees_token_by_token(agree: Callable) -> None:
    rollouts = make_rollouts(10)
    pair = {"kl_placement": KLPlacement.reward, "kl_estimator": KLEstimator.k1, "kl_weight": KLWeight.detached}
    cfg = ours.objective(kl_beta=0.3, **pair)
    theirs = 0.3 * core_algos.kl_penalty(rollouts.policy, rollouts.reference, "k1")
    agree(
        "verl 0.3 * kl_penalty k1",
        words(pair | {"kl_beta": 0.3}),
        theirs,
        kl_in_reward(rollouts.policy, rollouts.reference, cfg),
    )


def test_verls_kl_in_the_reward_is_credited_to_the_whole_rollout_ours_to_its_token() -> None:
    rollouts, lengths = make_rollouts(10), make_rollouts(10).lengths.tolist()
    k1 = core_algos.kl_penalty(rollouts.policy, rollouts.reference, "k1")
    last = torch.nn.functional.one_hot(rollouts.lengths - 1, rollouts.mask.shape[1]).double()
    theirs, _ = core_algos.compute_grpo_outcome_advantage(
        token_level_rewards=last * rollouts.rewards[:, None] - 0.3 * rollouts.padded(k1, padding=0.0),
        response_mask=rollouts.mask.double(),
        index=rollouts.group.numpy(),
        norm_adv_by_std_in_grpo=False,
    )
    advantage = ours.advantages_of(rollouts, Advantage.group_mean)
    sums = torch.stack([part.sum() for part in k1.split(lengths)])
    centred = ours.advantages_of(replace(rollouts, rewards=sums), Advantage.group_mean)
    torch.testing.assert_close(theirs[:, 0], advantage - 0.3 * centred, atol=1e-12, rtol=0)
    pair = {"kl_placement": KLPlacement.reward, "kl_estimator": KLEstimator.k1, "kl_weight": KLWeight.detached}
    own = advantage[rollouts.rollout] - kl_in_reward(rollouts.policy, rollouts.reference, ours.objective(kl_beta=0.3, **pair))
    torch.testing.assert_close(own, advantage[rollouts.rollout] - 0.3 * k1, atol=1e-12, rtol=0)
    assert (own - theirs[rollouts.mask]).abs().max() > 0.1


ON_POLICY = [("k2", KLEstimator.k2, KLWeight.detached), ("k2+", KLEstimator.k2, KLWeight.detached)]
ON_POLICY += [("k3+", KLEstimator.k3, KLWeight.live), ("low_var_kl+", KLEstimator.k3, KLWeight.live)]


@pytest.mark.parametrize(("name", "estimator", "weight"), ON_POLICY)
def test_the_kl_loss_agrees_on_policy(name: str, estimator: KLEstimator, weight: KLWeight, agree: Callable) -> None:
    """Where policy and sampler are the same the weight is 1; the live one still adds its gradient to k3, as verl's + does."""
    rollouts = make_rollouts(10)
    fresh = replace(rollouts, proximal=rollouts.policy, behaviour=rollouts.policy)
    pair = {"kl_beta": 0.3, "kl_estimator": estimator, "kl_weight": weight}
    cfg = verl_side.actor(global_batch_info=verl_side.global_batch(fresh))
    theirs = verl_side.loss_of(fresh, cfg, kl=(0.3, name))
    agree(
        f"verl kl_loss_type={name}, on-policy", words(pair), theirs, ours.loss_of(fresh, ours.objective(clip_high=0.2, **pair))
    )


def test_verls_default_low_var_kl_has_our_value_on_policy_and_another_gradient() -> None:
    rollouts = make_rollouts(10)
    fresh = replace(rollouts, proximal=rollouts.policy, behaviour=rollouts.policy)
    cfg = verl_side.actor(global_batch_info=verl_side.global_batch(fresh))
    theirs = verl_side.loss_of(fresh, cfg, kl=(0.3, "low_var_kl"))
    mine = ours.loss_of(fresh, ours.objective(clip_high=0.2, kl_beta=0.3))
    torch.testing.assert_close(theirs[0], mine[0], atol=1e-12, rtol=0)
    assert (theirs - mine).abs().max() > 1e-3


def test_verls_k2_off_policy_lacks_the_samplers_weight(agree: Callable) -> None:
    rollouts = make_rollouts(10)
    policy = rollouts.policy.clone().requires_grad_()
    theirs = core_algos.kl_penalty(policy, rollouts.reference, "k2") * (rollouts.policy - rollouts.behaviour).exp()
    cfg = ours.objective(kl_beta=0.3, kl_estimator=KLEstimator.k2, kl_weight=KLWeight.detached, truncation=1e9)
    mine = kl_penalty(policy, rollouts.reference, rollouts.behaviour, cfg)[0]
    agree("verl kl_penalty k2, times the weight", "kl_estimator=k2, kl_weight=detached", theirs.detach(), mine.detach())
    gradients = [torch.autograd.grad(values.sum(), policy)[0] for values in (theirs, mine)]
    agree("verl kl_penalty k2, times the weight", "kl_estimator=k2, kl_weight=detached", *gradients)
