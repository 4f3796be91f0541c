"""Statistics of hand-made tokens."""

import math

import numpy as np
import pytest
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Weighting
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.algorithm.objective import micro_loss
from prolong.learner.algorithm.token_stats import sample_metrics, token_sums, update_metrics
from prolong.learner.batches.packing import MicroBatch, Sample
from prolong.learner.ranks import Ranks
from torch import Tensor


def micro_of(behaviour: list[float], *, proximal: list[float] | None = None, weight: list[float] | None = None) -> MicroBatch:
    """Tokens of one rollout, on the CPU in float64."""
    count, nothing = len(behaviour), torch.zeros(0, dtype=torch.int64)
    return MicroBatch(
        input_ids=nothing,
        position_ids=nothing,
        plan=None,
        source=nothing,
        target=nothing,
        behaviour=torch.tensor(behaviour, dtype=torch.float64),
        advantage=torch.ones(count, dtype=torch.float64),
        weight=torch.tensor(weight or [1 / count] * count, dtype=torch.float64),
        temperature=torch.ones(count),
        staleness=torch.ones(count, dtype=torch.float64),
        comparable=torch.zeros(count, dtype=torch.bool),
        rollout=torch.zeros(count, dtype=torch.int64),
        num_rollouts=1,
        group=torch.zeros(1, dtype=torch.int64),
        groups=[],
        proximal=None if proximal is None else torch.tensor(proximal, dtype=torch.float64),
    )


def metrics_of(micro: MicroBatch, policy: list[float], cfg: ObjectiveConfig) -> dict[str, float]:
    current = torch.tensor(policy, dtype=torch.float64)
    token_loss = build_loss(cfg).for_mini_batch([micro], Ranks())
    nothing: Tensor = torch.zeros_like(current)
    sums = token_sums(micro, current, nothing, micro_loss(micro, current, nothing, cfg, token_loss=token_loss, bonus=0.0), cfg)
    return update_metrics(dict(zip(sums.names, sums.values.tolist(), strict=True)))


@pytest.mark.parametrize("weighting", list(Weighting))
@pytest.mark.parametrize("correction", list(Correction))
def test_the_effective_sample_size_is_that_of_policy_over_sampler_in_every_correction(
    correction: Correction, weighting: Weighting
) -> None:
    """Weights 1, 2 and 3: 36 / (3 * 14). The proximal policy, which is another one, does not matter."""
    if correction is Correction.bypass and weighting is not Weighting.truncate:
        pytest.skip("refused by the configuration")
    cfg = ObjectiveConfig(kl_beta=0.0, correction=correction, weighting=weighting)
    micro = micro_of([-math.log(2), -math.log(4), -math.log(6)], proximal=[-0.1, -0.2, -0.3])
    assert metrics_of(micro, [-math.log(2)] * 3, cfg)["policy/ess"] == pytest.approx(36 / 42)


def test_tokens_without_weight_and_numbers_that_are_not_finite_do_not_spoil_the_effective_sample_size() -> None:
    cfg = ObjectiveConfig(kl_beta=0.0, correction=Correction.bypass)
    micro = micro_of([-1.0, -1.0 - math.log(3), -90.0, -math.inf], weight=[0.5, 0.5, 0.0, 0.5])
    # weights 1 and 3, and 1 for the log-ratio that is not finite: 25 / (3 * 11)
    assert metrics_of(micro, [-1.0] * 4, cfg)["policy/ess"] == pytest.approx(25 / 33)


def test_one_token_that_outweighs_all_others_is_the_whole_sample() -> None:
    cfg = ObjectiveConfig(kl_beta=0.0, correction=Correction.bypass)
    micro = micro_of([-1.0, -1.0, -1.0, -300.0])
    micro.behaviour, micro.weight = micro.behaviour.float(), micro.weight.float()
    assert metrics_of(micro, [-1.0] * 4, cfg)["policy/ess"] == pytest.approx(1 / 4)


def sample_of(staleness: list[int], keep: list[bool] | None = None) -> Sample:
    count = len(staleness)
    return Sample(
        group=0,
        prompt=np.zeros(1, np.int32),
        completion=np.zeros(count, np.int32),
        behaviour=np.zeros(count, np.float32),
        keep=np.ones(count, bool) if keep is None else np.array(keep),
        staleness=np.array(staleness, np.int32),
        temperature=1.0,
        reward=0.0,
    )


def test_a_tokens_lag_is_its_staleness_plus_the_index_of_its_update() -> None:
    updates = [[sample_of([0, 1]), sample_of([2])], [sample_of([0, 0, 3], keep=[True, True, False])], [sample_of([2])]]
    metrics = sample_metrics(updates, 2)
    # 0, 1, 2, then 1, 1 (the masked token is no part of the loss), then 4
    assert metrics["policy/lag_mean"] == pytest.approx(9 / 6)
    assert metrics["policy/lag_max"] == 4.0
    assert metrics["policy/staleness_2"] == pytest.approx(2 / 6)


def test_without_a_token_in_the_loss_there_is_no_lag() -> None:
    metrics = sample_metrics([[sample_of([3], keep=[False])]], 2)
    assert (metrics["policy/lag_mean"], metrics["policy/lag_max"]) == (0.0, 0.0)
