"""GRPOTrainer._generate_and_score_completions: advantages from rewards, weights from the sampler's log-probabilities."""

# pyright: reportMissingImports=false
# TRL and verl are in .venv-parity alone

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from prolong.common.config.algorithm import RewardsConfig
from prolong.common.config.choices import Advantage, KLEstimator, KLWeight, Rejection, Weighting
from prolong.learner.algorithm.advantages import STD_EPSILON
from prolong.learner.algorithm.rewards import shape_rewards
from torch import Tensor
from trl.rewards import get_soft_overlong_punishment

from tests.parity import ours, trl_side
from tests.parity.rollouts import Rollouts, make_rollouts
from tests.parity.test_trl_losses import CASES, words

pytestmark = pytest.mark.usefixtures("double")
TRL_EPSILON = 1e-4
WEIGHTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "token_truncate": (
        {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 2.0},
        {"weighting": Weighting.truncate, "truncation": 2.0},
    ),
    "token_mask": (
        {
            "vllm_importance_sampling_mode": "token_mask",
            "vllm_importance_sampling_clip_min": 0.5,
            "vllm_importance_sampling_clip_max": 2.0,
        },
        {"weighting": Weighting.mask, "mask_low": 0.5, "mask_high": 2.0},
    ),
}


def corrected(rollouts: Rollouts, **settings: Any) -> tuple[trl_side.StandIn, dict[str, Tensor], Rollouts]:
    """Stand-in, batch with the sampler's correction, and the rollouts with the batch's advantages."""
    stand_in = trl_side.trainer(rollouts, use_vllm=True, **settings)
    batch = trl_side.generate(stand_in, rollouts)
    return stand_in, batch, replace(rollouts, advantage=batch["advantages"])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("case", ["grpo", "dapo", "dr_grpo", "cispo", "dapo, off_policy_mask_threshold=.1"])
def test_the_samplers_correction_agrees(case: str, weighting: str, agree: Callable) -> None:
    rollouts = make_rollouts(1)
    (theirs, mine), (their_weighting, our_weighting) = CASES[case], WEIGHTINGS[weighting]
    stand_in, batch, rollouts = corrected(rollouts, **theirs, **their_weighting)
    result = trl_side.loss_of(stand_in, batch, rollouts)
    cfg = ours.objective(**mine, **our_weighting)
    agree(f"TRL loss_type={case}, {weighting}", words(mine | our_weighting), result, ours.loss_of(rollouts, cfg))


def test_the_samplers_weights_agree_where_there_are_tokens(agree: Callable) -> None:
    rollouts = make_rollouts(1)
    _, batch, _ = corrected(rollouts, **WEIGHTINGS["token_truncate"][0])
    weight = ours.terms_of(rollouts, ours.objective()).weight
    assert 0.02 < (weight > 2).double().mean() < 0.5
    agree(
        "TRL importance_sampling_ratio", "min(w, 2)", batch["importance_sampling_ratio"][rollouts.mask], weight.clamp(max=2.0)
    )


def test_sequence_mask_drops_what_rejection_product_drops_and_weighs_by_the_rollout() -> None:
    rollouts = make_rollouts(2, drift=0.2)
    bounds = {"vllm_importance_sampling_clip_min": 0.5, "vllm_importance_sampling_clip_max": 2.0}
    _, batch, _ = corrected(rollouts, vllm_importance_sampling_mode="sequence_mask", **bounds)
    dropped = (batch["importance_sampling_ratio"] == 0)[:, 0]
    assert 0 < dropped.sum() < len(dropped)
    cfg = ours.objective(rejection=Rejection.product, reject_low=0.5, reject_high=2.0)
    assert torch.equal(ours.terms_of(rollouts, cfg).rejected, dropped[rollouts.rollout])
    assert batch["importance_sampling_ratio"].shape == (len(dropped), 1), "one weight per rollout, where ours is per token"


def test_gspo_with_token_weights_takes_their_mean(agree: Callable) -> None:
    """TRL multiplies the rollout's one loss by each token's weight; GSPO-token weighs each token's own gradient."""
    theirs, mine = CASES["grpo, importance_sampling_level=sequence"]
    stand_in, batch, rollouts = corrected(make_rollouts(1), **theirs, **WEIGHTINGS["token_truncate"][0])
    result = trl_side.loss_of(stand_in, batch, rollouts)
    cfg = ours.objective(**mine, **WEIGHTINGS["token_truncate"][1])
    own = ours.loss_of(rollouts, cfg)
    assert (result - own).abs().max() > 1e-3
    by_rollout = torch.stack([part.mean() for part in own[1:].split(rollouts.lengths.tolist())])
    name = "TRL importance_sampling_level=sequence, token_truncate, gradients averaged over each rollout"
    agree(name, words(mine | WEIGHTINGS["token_truncate"][1]), result[1:], by_rollout[rollouts.rollout])
    torch.testing.assert_close(result[0], own[0], atol=1e-12, rtol=0)


def test_the_weight_of_the_kl_term_starts_from_the_old_policy_where_ours_starts_from_the_sampler(agree: Callable) -> None:
    (theirs, mine), (weighting, our_weighting) = CASES["dapo"], WEIGHTINGS["token_truncate"]
    stand_in, batch, rollouts = corrected(make_rollouts(1), beta=0.3, **theirs, **weighting)
    result = trl_side.loss_of(stand_in, batch, rollouts)
    result = result - ours.loss_of(rollouts, ours.objective(**mine, **our_weighting))
    kl = {"kl_beta": 0.3, "kl_estimator": KLEstimator.k3, "kl_weight": KLWeight.live}

    def kl_term(rollouts: Rollouts) -> Tensor:
        with_kl, without = (ours.objective(**mine, truncation=1e9, **more) for more in (kl, {}))
        return ours.loss_of(rollouts, with_kl) - ours.loss_of(rollouts, without)

    assert (result - kl_term(rollouts)).abs().max() > 1e-3
    from_old = kl_term(replace(rollouts, behaviour=rollouts.proximal))
    agree("TRL beta, token_truncate, the KL term", words(kl) + ", with the proximal policy as the sampler", result, from_old)


@pytest.mark.parametrize("scale", ["none", "group"])
def test_advantages_agree_but_for_the_epsilon_of_the_deviation(scale: str, agree: Callable) -> None:
    rollouts = make_rollouts(3)
    theirs = trl_side.generate(trl_side.trainer(rollouts, scale_rewards=scale), rollouts)["advantages"]
    if scale == "none":
        return agree(
            "TRL scale_rewards=none", "advantage=group_mean", theirs, ours.advantages_of(rollouts, Advantage.group_mean)
        )
    mine = ours.advantages_of(rollouts, Advantage.group_std)
    assert (theirs - mine).abs().max() > 1e-5
    size = int((rollouts.group == 0).sum())
    deviation = rollouts.rewards.view(-1, size).std(dim=1).repeat_interleave(size)
    scaled = mine * (deviation + STD_EPSILON) / (deviation + TRL_EPSILON)
    agree("TRL scale_rewards=group", "advantage=group_std, with 1e-4 for 1e-6", theirs, scaled)


def test_the_overlong_penalty_agrees(agree: Callable) -> None:
    lengths = torch.arange(1, 101)
    punish = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    theirs = torch.tensor(punish([[1] * length for length in lengths.tolist()]))
    rewards, truncated = torch.zeros(100).numpy(), (lengths == 100).numpy()
    cfg = RewardsConfig(overlong_share=0.2)
    mine = shape_rewards(rewards, lengths.numpy(), truncated, max_tokens=100, version=0, cfg=cfg)
    agree("TRL get_soft_overlong_punishment(100, 20)", "overlong_share=0.2", theirs, torch.from_numpy(mine))
