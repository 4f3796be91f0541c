"""verl's policy losses, aggregations and rollout correction, and the learner's loss: value and gradient."""

# pyright: reportMissingImports=false
# TRL and verl are in .venv-parity alone

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from prolong.common.config.choices import Aggregation, Correction, Loss, Rejection, Weighting
from verl.trainer.config.algorithm import RolloutCorrectionConfig

from tests.parity import ours, verl_side
from tests.parity.rollouts import Rollouts, make_rollouts
from tests.parity.test_trl_losses import words

AGGREGATIONS: dict[str, dict[str, Any]] = {
    "token-mean": {"aggregation": Aggregation.token_mean},
    "seq-mean-token-mean": {"aggregation": Aggregation.sequence_mean},
    "seq-mean-token-sum": {"aggregation": Aggregation.sequence_sum, "length_constant": 1.0},
    "seq-mean-token-sum-norm": {"aggregation": Aggregation.sequence_sum, "length_constant": 64.0},
}
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vanilla": ({"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}, {"clip_low": 0.2, "clip_high": 0.28}),
    "vanilla, clip_ratio_c=2": (
        {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 2.0},
        {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 2.0},
    ),
    "gspo": ({"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}, {"loss": Loss.gspo, "clip_low": 0.2, "clip_high": 0.28}),
    "dppo_tv": (
        {"clip_ratio_low": 0.1, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0},
        {"loss": Loss.dppo_tv, "clip_low": 0.1, "clip_high": 0.15},
    ),
    "dppo_kl": (
        {"clip_ratio_low": 0.05, "clip_ratio_high": 0.06, "clip_ratio_c": 20.0},
        {"loss": Loss.dppo_kl, "clip_low": 0.05, "clip_high": 0.06},
    ),
    "cispo, clip_ratio_low=1": ({"clip_ratio_low": 1.0, "clip_ratio_high": 0.28}, {"loss": Loss.cispo, "clip_high": 0.28}),
}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "2.0": {"weighting": Weighting.truncate, "truncation": 2.0},
    "0.5_2.0": {"weighting": Weighting.mask, "mask_low": 0.5, "mask_high": 2.0},
}


def config(rollouts: Rollouts, aggregation: str, loss: str = "vanilla", **settings: Any) -> Any:
    """verl's configuration, with the denominators that its engines fill in."""
    factor = 64 if aggregation.endswith("norm") else None
    info = verl_side.global_batch(rollouts, loss_scale_factor=factor)
    return verl_side.actor(loss_agg_mode=aggregation, global_batch_info=info, **LOSSES[loss][0], **settings)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_aggregations_agree(loss: str, aggregation: str, agree: Callable) -> None:
    rollouts, mine = make_rollouts(4), LOSSES[loss][1] | AGGREGATIONS[aggregation]
    theirs = verl_side.loss_of(rollouts, config(rollouts, aggregation, loss), name=loss.partition(",")[0])
    cfg = ours.objective(weighting=Weighting.none, **mine)
    agree(f"verl {loss}; {aggregation}", words(mine), theirs, ours.loss_of(rollouts, cfg))


@pytest.mark.parametrize(
    ("loss", "flag"),
    [
        ("vanilla", "clipped_low"),
        ("vanilla", "clipped_high"),
        ("vanilla, clip_ratio_c=2", "clipped_dual"),
        ("gspo", "clipped_low"),
        ("gspo", "clipped_high"),
        ("dppo_tv", "clipped_low"),
        ("dppo_tv", "clipped_high"),
        ("dppo_kl", "clipped_low"),
        ("dppo_kl", "clipped_high"),
        ("cispo, clip_ratio_low=1", "clipped_high"),
    ],
)
def test_the_rollouts_reach_every_branch(loss: str, flag: str) -> None:
    terms = ours.terms_of(make_rollouts(4), ours.objective(**LOSSES[loss][1]))
    assert 0.01 < getattr(terms.uncorrected, flag).double().mean() < 0.5


@pytest.mark.parametrize("threshold", WEIGHTINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_the_rollout_correction_agree(loss: str, threshold: str, agree: Callable) -> None:
    rollouts, mine = make_rollouts(5), LOSSES[loss][1] | WEIGHTINGS[threshold]
    weights, _ = verl_side.correct(rollouts, rollout_is="token", rollout_is_threshold=threshold)
    theirs = verl_side.loss_of(rollouts, config(rollouts, "token-mean", loss), name=loss.partition(",")[0], weights=weights)
    name = f"verl {loss}; rollout_is=token, rollout_is_threshold={threshold}"
    agree(name, words(mine), theirs, ours.loss_of(rollouts, ours.objective(**mine)))


@pytest.mark.parametrize(("statistic", "rejection"), [("seq_mean_k1", Rejection.geometric), ("seq_sum_k1", Rejection.product)])
@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean"])
def test_rejection_agrees_with_reciprocal_bounds(
    statistic: str, rejection: Rejection, aggregation: str, agree: Callable
) -> None:
    """verl's k1 is behaviour - proximal, ours proximal - behaviour; denominators are those before rejection on both sides."""
    rollouts, low, high = make_rollouts(6, drift=0.2), 0.8, 1.1
    mine = AGGREGATIONS[aggregation] | {"rejection": rejection, "reject_low": low, "reject_high": high}
    weights, mask = verl_side.correct(
        rollouts, rollout_is="token", rollout_rs=statistic, rollout_rs_threshold=f"{1 / high}_{1 / low}"
    )
    theirs = verl_side.loss_of(rollouts, config(rollouts, aggregation), mask=mask, weights=weights)
    cfg = ours.objective(**LOSSES["vanilla"][1], **mine)
    rejected = ours.terms_of(rollouts, cfg).rejected
    assert 0.1 < rejected.double().mean() < 0.9
    assert torch.equal(mask[rollouts.mask] == 0, rejected)
    agree(f"verl rollout_rs={statistic}, bounds 1/high_1/low; {aggregation}", words(mine), theirs, ours.loss_of(rollouts, cfg))


def test_verls_trainer_divides_by_what_rejection_left() -> None:
    rollouts, low, high = make_rollouts(6, drift=0.2), 0.8, 1.1
    _, mask = verl_side.correct(rollouts, rollout_rs="seq_mean_k1", rollout_rs_threshold=f"{1 / high}_{1 / low}")
    theirs = verl_side.loss_of(rollouts, verl_side.actor(**LOSSES["vanilla"][0]), mask=mask)
    rejecting = {"rejection": Rejection.geometric, "reject_low": low, "reject_high": high}
    mine = ours.loss_of(rollouts, ours.objective(weighting=Weighting.none, **LOSSES["vanilla"][1], **rejecting))
    share = mask.sum() / rollouts.lengths.sum()
    assert share < 0.9
    torch.testing.assert_close(theirs * share, mine, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rejecting", [False, True])
def test_bypass_agrees(rejecting: bool, agree: Callable) -> None:
    """With rejection verl compares the current policy with the sampler; so does ours where no update came between."""
    rollouts = make_rollouts(7, drift=0.2)
    rollouts = replace(rollouts, proximal=rollouts.policy)
    reject = {"rejection": Rejection.geometric, "reject_low": 0.8, "reject_high": 1.1} if rejecting else {}
    rule = {"rollout_rs": "seq_mean_k1", "rollout_rs_threshold": f"{1 / 1.1}_{1 / 0.8}"} if rejecting else {}
    correction = RolloutCorrectionConfig(bypass_mode=True, loss_type="ppo_clip", rollout_is=None, **rule)
    cfg = config(rollouts, "token-mean", correction=correction)
    theirs = verl_side.loss_of(rollouts, cfg, name="bypass_mode", old=rollouts.behaviour)
    mine = {"correction": Correction.bypass, **reject}
    own = ours.objective(**LOSSES["vanilla"][1], **mine)
    assert ours.terms_of(rollouts, own).rejected.any() == rejecting
    agree(f"verl bypass_mode, ppo_clip{', seq_mean_k1' * rejecting}", words(mine), theirs, ours.loss_of(rollouts, own))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_micro_batches_add_up_to_the_whole(aggregation: str, agree: Callable) -> None:
    rollouts, mine = make_rollouts(8), LOSSES["vanilla"][1] | AGGREGATIONS[aggregation]
    cfg = config(rollouts, aggregation)
    first, second = (verl_side.loss_of(rollouts.part(*rows), cfg) for rows in [(0, 5), (5, len(rollouts.lengths))])
    whole = torch.cat([first[:1] + second[:1], first[1:], second[1:]])
    cfg = ours.objective(weighting=Weighting.none, **mine)
    agree(f"verl vanilla; {aggregation}, 2 micro-batches", words(mine), whole, ours.loss_of(rollouts, cfg))


def test_sapo_agrees(agree: Callable) -> None:
    """verl's averages over rollouts whatever the configuration says."""
    rollouts, mine = make_rollouts(4), {"loss": Loss.sapo, **AGGREGATIONS["seq-mean-token-mean"]}
    info = verl_side.global_batch(rollouts)
    theirs = verl_side.loss_of(rollouts, verl_side.actor(global_batch_info=info), name="sapo")
    cfg = ours.objective(weighting=Weighting.none, **mine)
    agree("verl sapo", words(mine), theirs, ours.loss_of(rollouts, cfg))


def test_verls_cispo_has_a_lower_bound_that_ours_has_not() -> None:
    rollouts = make_rollouts(4)
    bounded = config(rollouts, "token-mean", "cispo, clip_ratio_low=1")
    raised = replace(bounded, clip_ratio_low=0.2)
    difference = verl_side.loss_of(rollouts, raised, name="cispo") - verl_side.loss_of(rollouts, bounded, name="cispo")
    below = (rollouts.policy - rollouts.proximal).exp() < 0.8
    assert torch.equal(difference[1:].abs() > 1e-12, below)


def test_verls_dual_clip_is_on_by_default() -> None:
    assert verl_side.ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True).clip_ratio_c == 3.0
