"""GRPOTrainer._compute_loss and the learner's loss: value and gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from prolong.common.config.choices import Aggregation, Correction, KLEstimator, KLWeight, Loss, Weighting

from tests.parity import ours, trl_side
from tests.parity.rollouts import Rollouts, make_rollouts

TOKENS, ROLLOUTS, SUM = Aggregation.token_mean, Aggregation.sequence_mean, Aggregation.sequence_sum
CLIP = {"epsilon": 0.2, "epsilon_high": 0.28}
OUR_CLIP = {"clip_low": 0.2, "clip_high": 0.28}
CORRECTIONS = {
    "decoupled, weighting=none": {"correction": Correction.decoupled, "weighting": Weighting.none},
    "bypass": {"correction": Correction.bypass},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo", **CLIP}, {"aggregation": ROLLOUTS, **OUR_CLIP}),
    "bnpo": ({"loss_type": "bnpo", **CLIP}, {"aggregation": TOKENS, **OUR_CLIP}),
    "dapo": ({"loss_type": "dapo", **CLIP}, {"aggregation": TOKENS, **OUR_CLIP}),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "max_completion_length": 64, **CLIP},
        {"aggregation": SUM, "length_constant": 64.0, **OUR_CLIP},
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.5}, {"aggregation": TOKENS, "loss": Loss.cispo, "clip_high": 0.5}),
    "sapo": ({"loss_type": "sapo"}, {"aggregation": ROLLOUTS, "loss": Loss.sapo}),
    "grpo, importance_sampling_level=sequence": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", **CLIP},
        {"aggregation": ROLLOUTS, "loss": Loss.gspo, **OUR_CLIP},
    ),
    "dapo, delta=2": ({"loss_type": "dapo", "delta": 2.0, **CLIP}, {"aggregation": TOKENS, "dual_clip": 2.0, **OUR_CLIP}),
    "dapo, off_policy_mask_threshold=.1": (
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.1, **CLIP},
        {"aggregation": TOKENS, "opsm_delta": 0.1, **OUR_CLIP},
    ),
}


@pytest.fixture
def rollouts() -> Rollouts:
    """TRL knows one older policy where no vLLM is used: proximal and behaviour are the same."""
    made = make_rollouts()
    return replace(made, behaviour=made.proximal)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_losses_agree(case: str, correction: str, rollouts: Rollouts, agree: Callable) -> None:
    theirs, mine = CASES[case]
    stand_in = trl_side.trainer(rollouts, **theirs)
    cfg = ours.objective(**mine, **CORRECTIONS[correction])
    result = trl_side.loss_of(stand_in, trl_side.batch_of(rollouts), rollouts)
    agree(f"TRL loss_type={case}", words(mine), result, ours.loss_of(rollouts, cfg))


@pytest.mark.parametrize(
    ("case", "flag"),
    [
        ("dapo", "clipped_low"),
        ("dapo", "clipped_high"),
        ("dapo, delta=2", "clipped_dual"),
        ("cispo", "clipped_high"),
        ("dapo, off_policy_mask_threshold=.1", "rejected"),
        ("grpo, importance_sampling_level=sequence", "clipped_low"),
    ],
)
def test_the_rollouts_reach_every_branch(case: str, flag: str, rollouts: Rollouts) -> None:
    terms = ours.terms_of(rollouts, ours.objective(**CASES[case][1], **CORRECTIONS["bypass"]))
    assert 0.01 < getattr(terms if flag == "rejected" else terms.uncorrected, flag).double().mean() < 0.5


@pytest.mark.parametrize("case", ["dapo", "cispo", "dr_grpo"])
def test_micro_batches_add_up_to_the_whole(case: str, rollouts: Rollouts, agree: Callable) -> None:
    theirs, mine = CASES[case]
    stand_in = trl_side.trainer(rollouts, parts=2, **theirs)
    half = len(rollouts.lengths) // 2
    batch = {"num_items_in_batch": rollouts.lengths.sum()}
    parts = [rollouts.part(0, half), rollouts.part(half, 2 * half)]
    results = [trl_side.loss_of(stand_in, {**trl_side.batch_of(part), **batch}, part) for part in parts]
    whole = torch.cat([results[0][:1] + results[1][:1], results[0][1:], results[1][1:]])
    agree(f"TRL loss_type={case}, 2 micro-batches", words(mine), whole, ours.loss_of(rollouts, ours.objective(**mine)))


def test_bnpo_in_micro_batches_is_a_mean_of_means(rollouts: Rollouts) -> None:
    theirs, mine = CASES["bnpo"]
    stand_in = trl_side.trainer(rollouts, parts=2, **theirs)
    parts = [rollouts.part(0, 3), rollouts.part(3, len(rollouts.lengths))]
    means = [ours.loss_of(part, ours.objective(**mine))[0] for part in parts]
    total = sum(trl_side.loss_of(stand_in, trl_side.batch_of(part), part)[0] for part in parts)
    torch.testing.assert_close(total, (means[0] + means[1]) / 2, atol=1e-12, rtol=0)
    assert abs(total - ours.loss_of(rollouts, ours.objective(**mine))[0]) > 1e-3


@pytest.mark.parametrize("case", ["grpo", "dapo"])
def test_kl_with_bias_correction_is_the_live_weight(case: str, rollouts: Rollouts, agree: Callable) -> None:
    theirs, mine = CASES[case]
    kl = {"kl_beta": 0.3, "kl_estimator": KLEstimator.k3, "kl_weight": KLWeight.live, "truncation": 1e9}
    stand_in = trl_side.trainer(rollouts, beta=0.3, **theirs)
    assert stand_in.args.use_bias_correction_kl, "TRL's default"
    result = trl_side.loss_of(stand_in, trl_side.batch_of(rollouts), rollouts)
    agree("TRL beta, use_bias_correction_kl=True", words(kl), result, ours.loss_of(rollouts, ours.objective(**mine, **kl)))


def test_kl_without_bias_correction_has_our_value_on_policy_and_another_gradient(rollouts: Rollouts) -> None:
    fresh = replace(rollouts, proximal=rollouts.policy, behaviour=rollouts.policy)
    kl = {"kl_beta": 0.3, "kl_estimator": KLEstimator.k3, "kl_weight": KLWeight.live}
    stand_in = trl_side.trainer(fresh, beta=0.3, use_bias_correction_kl=False, loss_type="dapo")
    theirs = trl_side.loss_of(stand_in, trl_side.batch_of(fresh), fresh)
    mine = ours.loss_of(fresh, ours.objective(**kl))
    torch.testing.assert_close(theirs[0], mine[0], atol=1e-12, rtol=0)
    assert (theirs - mine).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["bnpo", "dapo"])
def test_the_entropy_bonus_agrees_where_the_loss_is_a_mean_over_tokens(case: str, rollouts: Rollouts, agree: Callable) -> None:
    theirs, mine = CASES[case]
    entropy = rollouts.policy.square()
    stand_in = trl_side.trainer(rollouts, entropy_coef=0.2, **theirs)
    result = trl_side.loss_of(stand_in, trl_side.batch_of(rollouts), rollouts, entropy)
    own = ours.loss_of(rollouts, ours.objective(**mine), entropy=entropy, bonus=0.2)
    agree(f"TRL loss_type={case}, entropy_coef", f"{words(mine)}, the entropy bonus", result, own)


def words(settings: dict[str, Any]) -> str:
    """Settings as on the command line, without those that a table does not need."""
    plain = {key: getattr(value, "name", value) for key, value in settings.items() if key not in OUR_CLIP}
    return ", ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in plain.items())
