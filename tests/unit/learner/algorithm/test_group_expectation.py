"""GEPO against its formula, written out for every rollout in plain floats."""

import math
from dataclasses import replace

import pytest
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Aggregation, Correction, Loss
from prolong.common.config.sections import Config
from prolong.common.errors import ConfigError
from prolong.learner.algorithm.losses.group_expectation import GroupExpectationLoss
from prolong.learner.algorithm.objective import micro_loss
from prolong.learner.batches.packing import MicroBatch, PackingLayout, Sample, pack
from prolong.learner.ranks import Ranks
from torch import Tensor

from tests.support.batches import mixed_batch, samples_under

CFG = ObjectiveConfig(loss=Loss.gepo, correction=Correction.bypass, aggregation=Aggregation.sequence_mean, kl_beta=0.0)


def samples() -> list[Sample]:
    cfg = Config()
    cfg.objective = CFG
    (found,) = samples_under(cfg, mixed_batch())
    return found


def packed(budget: int) -> list[MicroBatch]:
    return pack(samples(), token_budget=budget, layout=PackingLayout.documents, dtype=torch.float64)


def policy_of(micro: MicroBatch) -> Tensor:
    """A policy that has moved: a function of the sampler's log-probability, so that every packing has the same one."""
    return micro.behaviour + 0.4 * torch.sin(40.0 * micro.behaviour)


def sequence_form() -> tuple[float, list[float]]:
    """Loss and ratios as the paper has them: a mean over rollouts of ppo(P / E)."""
    members: dict[int, list[Sample]] = {}
    for sample in samples():
        members.setdefault(sample.group, []).append(sample)
    losses, ratios = [], []
    for group in members.values():
        logprobs = [torch.tensor(sample.behaviour).double() for sample in group]
        q = [math.exp(b.mean().item()) for b in logprobs]
        expected = sum(value / sum(q) * value for value in q)
        for sample, b in zip(group, logprobs, strict=True):
            ratio = math.exp((b + 0.4 * torch.sin(40.0 * b)).mean().item()) / expected
            clipped = min(max(ratio, 0.8), 1.4)
            losses.append(max(-sample.advantage * ratio, -sample.advantage * clipped))
            ratios.append(ratio)
    return sum(losses) / len(losses), ratios


@pytest.mark.parametrize("budget", [40, 10_000])
def test_the_loss_is_that_of_the_paper_whatever_the_packing(budget: int) -> None:
    micros = packed(budget)
    loss = GroupExpectationLoss(CFG).for_mini_batch(micros, Ranks())
    total, found = 0.0, []
    for micro in micros:
        parts = micro_loss(micro, policy_of(micro), torch.zeros(()), CFG, token_loss=loss, bonus=0.0)
        total += float((micro.weight * parts.total).sum())
        ratio = parts.terms.uncorrected.ratio
        found += [ratio[micro.rollout == index][0].item() for index in range(micro.num_rollouts)]
    expected, ratios = sequence_form()
    assert total == pytest.approx(expected, rel=1e-9)
    assert sorted(found) == pytest.approx(sorted(ratios), rel=1e-9)
    assert (len(micros) > 2) == (budget == 40)


def test_the_gradient_is_that_of_the_sequence_form() -> None:
    (micro,) = packed(10_000)
    policy = policy_of(micro).requires_grad_()
    loss = GroupExpectationLoss(CFG).for_mini_batch([micro], Ranks())
    parts = micro_loss(micro, policy, torch.zeros(()), CFG, token_loss=loss, bonus=0.0)
    (ours,) = torch.autograd.grad((micro.weight * parts.total).sum(), policy)
    whole = torch.zeros((), dtype=torch.float64)
    for index in range(micro.num_rollouts):
        own = micro.rollout == index
        peers = [j for j in range(micro.num_rollouts) if micro.group[j] == micro.group[index]]
        q = torch.stack([micro.behaviour[micro.rollout == j].mean().exp() for j in peers])
        ratio, a = policy[own].mean().exp() / ((q / q.sum()) * q).sum(), micro.advantage[own][0]
        whole = whole + torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.4)) / micro.num_rollouts
    (theirs,) = torch.autograd.grad(whole, policy)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    assert bool((theirs == 0).any())
    assert bool((theirs != 0).any())


def test_a_group_of_equal_probabilities_has_the_ratio_of_gspo() -> None:
    """E is then every rollout's own Q."""
    (micro,) = packed(10_000)
    micro = replace(micro, behaviour=torch.full_like(micro.behaviour, -1.5))
    policy = micro.behaviour + 0.1
    loss = GroupExpectationLoss(CFG).for_mini_batch([micro], Ranks())
    parts = micro_loss(micro, policy, torch.zeros(()), CFG, token_loss=loss, bonus=0.0)
    assert parts.terms.uncorrected.ratio.tolist() == pytest.approx([math.exp(0.1)] * len(policy))


def test_rare_rollouts_do_not_get_large_ratios() -> None:
    """The policy finds a rollout of probability .001 four times as likely; GSPO's ratio of it is 4."""
    (micro,) = pack(samples()[:2], token_budget=10_000, layout=PackingLayout.documents, dtype=torch.float64)
    rare = micro.rollout == 0
    micro = replace(micro, behaviour=torch.where(rare, math.log(0.001), math.log(0.5)).double())
    assert micro.group[0] == micro.group[1]
    policy = micro.behaviour + math.log(4.0) * rare
    loss = GroupExpectationLoss(CFG).for_mini_batch([micro], Ranks())
    parts = micro_loss(micro, policy, torch.zeros(()), CFG, token_loss=loss, bonus=0.0)
    expected = (0.001**2 + 0.5**2) / 0.501
    assert parts.terms.uncorrected.ratio[rare].tolist() == pytest.approx([0.004 / expected] * int(rare.sum()))


def test_another_correction_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss gepo looks at the ratio to the sampler itself"):
        ObjectiveConfig(loss=Loss.gepo, correction=Correction.decoupled)
