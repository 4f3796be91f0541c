"""GEPO: PPO on a rollout's probability relative to its whole group. Source: arXiv 2508.17850.

    P = exp(mean of t over the rollout's tokens), Q = exp(mean of b)
    ratio = P / E, E = sum(Q^2) / sum(Q) over the rollouts of the group
with t and b a token's log-probabilities under the current policy and the sampler. E is the mean of Q with weights like Q. GSPO
divides by the rollout's own Q, which may be tiny where the sampler was surprised; E of the whole group is not, so that the
ratio varies less when the sampler is far away. It is not 1 on policy: rollouts that are likelier than the group's E count more.
Every token carries its own share of the gradient, as in GSPO-token. The group's rollouts in the same update count, with the
tokens that are in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....common.config.algorithm import ObjectiveConfig
from ...batches.packing import MicroBatch
from ...ranks import Ranks
from ..api import LossTerms, Tokens
from ..ratios import exp_ratio, rollout_means, rollout_sums
from .per_token import ppo


@dataclass(frozen=True, slots=True)
class GroupExpectation:
    """PPO with the expectations of one mini-batch's groups."""

    cfg: ObjectiveConfig
    # [G] int64 ascending, ordinals of the groups
    group: Tensor
    # [G] log E of each
    expected: Tensor

    def __call__(self, tokens: Tokens, log_ratio: Tensor) -> LossTerms:
        """Clip P / E to [1 - clip_low, 1 + clip_high]. log_ratio is t - b: the correction is bypass."""
        sampler = rollout_means(_finite(tokens.behaviour), tokens.rollout, tokens.num_rollouts)
        moved = rollout_means(log_ratio.detach(), tokens.rollout, tokens.num_rollouts)
        found = torch.searchsorted(self.group, tokens.group).clamp(max=len(self.group) - 1)
        means = sampler + moved - self.expected[found]
        ratio = exp_ratio(means[tokens.rollout] + (log_ratio - log_ratio.detach()))
        return ppo(ratio, tokens.advantage, (1.0 - self.cfg.clip_low, 1.0 + self.cfg.clip_high))

    def metrics(self) -> dict[str, float]:
        """No metrics besides those of every loss."""
        return {}


@dataclass(frozen=True, slots=True)
class GroupExpectationLoss:
    """GEPO. A group's rollouts may be in several micro-batches and on several ranks."""

    cfg: ObjectiveConfig
    # the sampler's log-probabilities came with the batch
    needs_proximal = False

    def for_mini_batch(self, micros: Sequence[MicroBatch], ranks: Ranks) -> GroupExpectation:
        """Compute log E of every group from the rollouts of all ranks. Collective; waits for the device."""
        rows = [_sampled_rollouts(micro) for micro in micros]
        group, means = torch.cat(ranks.gather_ragged(torch.cat(rows, dim=1))[:: ranks.sharing], dim=1)
        ordinals, member = torch.unique(group, return_inverse=True)
        expected = [_log_expectation(means[member == index]) for index in range(len(ordinals))]
        place = micros[0].behaviour
        if not expected:
            # no token of the update is in the loss
            ordinals, expected = torch.zeros(1), [torch.zeros(())]
        return GroupExpectation(self.cfg, ordinals.to(place.device, torch.int64), torch.stack(expected).to(place))


def _sampled_rollouts(micro: MicroBatch) -> Tensor:
    """[2, K] float64 on the CPU: ordinal of the group and log Q of the micro-batch's rollouts that have tokens in the loss."""
    live = (micro.weight > 0).double()
    counts = rollout_sums(live, micro.rollout, micro.num_rollouts)
    means = rollout_sums(live * _finite(micro.behaviour).double(), micro.rollout, micro.num_rollouts) / counts.clamp(min=1.0)
    return torch.stack((micro.group.double(), means))[:, counts > 0].cpu()


def _log_expectation(means: Tensor) -> Tensor:
    """Compute log(sum(Q^2) / sum(Q)) of log Q [K]."""
    return torch.logsumexp(2.0 * means, 0) - torch.logsumexp(means, 0)


def _finite(logprobs: Tensor) -> Tensor:
    return logprobs.nan_to_num(0.0, 0.0, 0.0)
