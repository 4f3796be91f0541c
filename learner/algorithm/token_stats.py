"""What is watched of every update: per-token quantities summed on the device, over micro-batches and ranks, read once."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ...common.config.algorithm import ObjectiveConfig
from ...common.config.choices import Weighting
from ..batches.packing import MicroBatch, Sample
from .loss import LossParts
from .objective import finite_difference

NAMES: tuple[str, ...] = (
    "loss", "policy_loss", "kl_loss", "tokens", "entropy", "kl_reference", "ratio", "clip_low", "clip_high", "clip_dual",
    "rejected", "weight", "weight_squared", "truncated", "log_ratio", "log_ratio_squared", "k3", "non_finite",
)  # fmt: skip
LOSS, ENTROPY = NAMES.index("loss"), NAMES.index("entropy")


@torch.no_grad()
def micro_stats(micro: MicroBatch, policy: Tensor, entropy: Tensor, parts: LossParts, cfg: ObjectiveConfig) -> Tensor:
    """Sums over the micro-batch's tokens, in the order of NAMES, float64. Spare micro-batches count for nothing."""
    live = (micro.weight > 0).to(policy.dtype)
    terms = parts.terms
    log_ratio = finite_difference(policy, micro.behaviour)
    most = cfg.truncation if cfg.weighting is Weighting.truncate else float("inf")
    rows = (
        micro.weight * parts.total, micro.weight * terms.loss, micro.weight * parts.kl_term,
        live, live * entropy, live * parts.kl,
        live * terms.ratio, live * terms.clipped_low, live * terms.clipped_high, live * terms.clipped_dual,
        live * terms.rejected,
        live * terms.weight, live * terms.weight.square(), live * (terms.weight > most),
        live * log_ratio, live * log_ratio.square(), live * (log_ratio.exp() - log_ratio - 1.0),
        live * ~torch.isfinite(policy - micro.behaviour),
    )  # fmt: skip
    return torch.stack(rows).sum(1, dtype=torch.float64)


def stat_metrics(sums: dict[str, float]) -> dict[str, float]:
    """Metrics of one update from the sums of NAMES: means over tokens, but for losses, whose weights divide."""
    tokens = max(sums["tokens"], 1.0)
    weight_squared = max(sums["weight_squared"], 1e-30)
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
        "policy/ess": sums["weight"] ** 2 / (tokens * weight_squared),
        "policy/truncated": sums["truncated"] / tokens,
        "policy/kl_behaviour": -sums["log_ratio"] / tokens,
        "policy/kl_behaviour_k3": sums["k3"] / tokens,
        "policy/log_ratio_m2": sums["log_ratio_squared"] / tokens,
        "policy/non_finite": sums["non_finite"],
        "reference/kl": sums["kl_reference"] / tokens,
        "reference/kl_loss": sums["kl_loss"],
    }


def sample_metrics(updates: list[list[Sample]], eta: int) -> dict[str, float]:
    """Metrics of a batch's rollouts before any forward: shaped rewards, tokens, and staleness of the tokens in the loss."""
    samples = list(chain.from_iterable(updates))
    tokens = sum(len(sample.completion) for sample in samples)
    ages = np.concatenate([sample.staleness[sample.keep] for sample in samples])
    shares = np.bincount(ages, minlength=eta + 1) / max(len(ages), 1)
    return {
        "rewards/shaped_mean": float(np.mean([sample.reward for sample in samples])),
        "learner/tokens": float(tokens),
        "learner/masked_tokens": float(tokens - len(ages)),
    } | {f"policy/staleness_{k}": float(shares[k]) for k in range(eta + 1)}
