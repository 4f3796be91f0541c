"""The statistics of every update: per-token quantities summed on the device, over micro-batches and ranks, read once.

policy/ess is the effective sample size of an update as a share of its N tokens, (sum w)^2 / (N sum w^2) in [1 / N, 1], with
w = exp(t - b) of each token: t its log-probability under the policy just before this update, b under the behaviour policy. So
it says how unequally importance weights would count the tokens, whatever the correction does with w (bypass has it in its
ratio, approximate and decoupled weigh with a part of it), and the earlier updates of the batch count as staleness too.
Source: Kong, "A note on importance sampling using standardized weights", 1992; for this purpose VCPO, arXiv 2602.17616, which
has one weight for each rollout where we have one for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Weighting
from ..batches.packing import MicroBatch, Sample
from ..ranks import Ranks
from .agreement import agreement_rows
from .objective import LossParts
from .ratios import MAX_LOG_RATIO, finite_difference


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the tokens of a micro-batch, by name, on the device."""

    names: tuple[str, ...]
    # [len(names)] float64
    values: Tensor


@dataclass(frozen=True, slots=True)
class UpdateReading:
    """The numbers of one update on the host."""

    # over all micro-batches and ranks, by the names of TokenSums
    sums: dict[str, float]
    # before clipping
    grad_norm: float
    # one per micro-batch of this rank: not finite if its policy was not
    health: list[float]


@torch.no_grad()
def token_sums(micro: MicroBatch, policy: Tensor, entropy: Tensor, parts: LossParts, cfg: ObjectiveConfig) -> TokenSums:
    """Sum the micro-batch's statistics over its tokens. Spare micro-batches, whose weights are 0, count for nothing."""
    live = (micro.weight > 0).to(policy.dtype)
    terms, uncorrected = parts.terms, parts.terms.uncorrected
    log_ratio = finite_difference(policy, micro.behaviour)
    non_finite = ~torch.isfinite(policy - micro.behaviour)
    # of the whole way from sampler to policy; its square is finite in float32
    importance = log_ratio.clamp(max=MAX_LOG_RATIO / 2).exp()
    most = cfg.truncation if cfg.weighting is Weighting.truncate else float("inf")
    rows = {
        "loss": micro.weight * parts.total,
        "policy_loss": micro.weight * terms.loss,
        "kl_loss": micro.weight * parts.kl_term,
        "tokens": live,
        "entropy": live * entropy,
        "kl_reference": live * parts.kl,
        "ratio": live * uncorrected.ratio,
        "clip_low": live * uncorrected.clipped_low,
        "clip_high": live * uncorrected.clipped_high,
        "clip_dual": live * uncorrected.clipped_dual,
        "rejected": live * terms.rejected,
        "weight": live * terms.weight,
        "importance": live * importance,
        "importance_squared": live * importance.square(),
        "truncated": live * (terms.weight > most),
        "log_ratio": live * log_ratio,
        "log_ratio_squared": live * log_ratio.square(),
        "k3": live * (log_ratio.exp() - log_ratio - 1.0),
        "non_finite": live * non_finite,
    } | agreement_rows(log_ratio, live * (micro.comparable & ~non_finite))
    return TokenSums(names=tuple(rows), values=torch.stack(tuple(rows.values())).sum(1, dtype=torch.float64))


def read_update(micro_sums: Sequence[TokenSums], grad_norm: Tensor, ranks: Ranks) -> UpdateReading:
    """Add up the micro-batches of all ranks and read everything, in the one host synchronisation of an update. Collective."""
    names = micro_sums[0].names
    table = torch.stack([sums.values for sums in micro_sums])  # [micro-batches, names]
    # log-ratios of a policy that is not finite count as 0, but its loss plus its entropy is not finite either
    health = table[:, names.index("loss")] + table[:, names.index("entropy")]
    totals = ranks.sum_once(table.sum(0))
    read = read_together({"totals": totals, "grad_norm": grad_norm.to(totals).reshape(1), "health": health})
    return UpdateReading(
        sums=dict(zip(names, read["totals"], strict=True)), grad_norm=read["grad_norm"][0], health=read["health"]
    )


def read_together(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """Copy 1-D tensors of one device and type to the host, with a single synchronisation for all of them."""
    flat = torch.cat(tuple(tensors.values())).tolist()
    lists, start = {}, 0
    for name, tensor in tensors.items():
        lists[name] = flat[start : start + len(tensor)]
        start += len(tensor)
    return lists


def effective_sample_size(sums: dict[str, float]) -> float:
    """Compute policy/ess of one update."""
    return sums["importance"] ** 2 / (max(sums["tokens"], 1.0) * max(sums["importance_squared"], 1e-30))


def update_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Compute the metrics of one update from its sums: means over tokens, except losses, whose weights divide already."""
    tokens = max(sums["tokens"], 1.0)
    return {
        "learner/loss": sums["loss"],
        "learner/entropy": sums["entropy"] / tokens,
        "policy/loss": sums["policy_loss"],
        "policy/ratio_mean": sums["ratio"] / tokens,
        "policy/clip_low": sums["clip_low"] / tokens,
        "policy/clip_high": sums["clip_high"] / tokens,
        "policy/clip_dual": sums["clip_dual"] / tokens,
        "policy/rejected": sums["rejected"] / tokens,
        "policy/weight_mean": sums["weight"] / tokens,
        "policy/ess": effective_sample_size(sums),
        "policy/truncated": sums["truncated"] / tokens,
        "policy/kl_behaviour": -sums["log_ratio"] / tokens,
        "policy/kl_behaviour_k3": sums["k3"] / tokens,
        "policy/log_ratio_m2": sums["log_ratio_squared"] / tokens,
        "policy/non_finite": sums["non_finite"],
        "reference/kl": sums["kl_reference"] / tokens,
        "reference/kl_loss": sums["kl_loss"],
    }


def sample_metrics(updates: list[list[Sample]], eta: int) -> dict[str, float]:
    """Compute metrics of a batch's rollouts before any forward: shaped rewards, tokens, staleness of tokens in the loss.

    A token's lag is its staleness in versions plus the index of its update in the batch, from 0: the policy has changed so
    many times more by then.
    """
    samples = list(chain.from_iterable(updates))
    tokens = sum(len(sample.completion) for sample in samples)
    by_update = [np.concatenate([sample.staleness[sample.keep] for sample in update]) for update in updates]
    ages = np.concatenate(by_update)
    lags = np.concatenate([staleness + index for index, staleness in enumerate(by_update)])
    shares = np.bincount(ages, minlength=eta + 1) / max(len(ages), 1)
    return {
        "rewards/shaped_mean": float(np.mean([sample.reward for sample in samples])),
        "learner/tokens": float(tokens),
        "learner/masked_tokens": float(tokens - len(ages)),
        "policy/lag_mean": float(lags.mean()) if len(lags) else 0.0,
        "policy/lag_max": float(lags.max(initial=0)),
    } | {f"policy/staleness_{k}": float(shares[k]) for k in range(eta + 1)}
