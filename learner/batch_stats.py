"""What is watched of every update: per-token quantities summed on the device, over micro-batches and ranks, read once."""

from __future__ import annotations

import torch
from torch import Tensor

from .objective import PolicyTerms, finite_difference
from .packing import MicroBatch

NAMES: tuple[str, ...] = (
    "loss", "policy_loss", "kl_loss", "tokens", "entropy", "kl_reference", "ratio", "clip_low", "clip_high",
    "weight", "weight_squared", "truncated", "log_ratio", "log_ratio_squared", "k3", "non_finite",
)  # fmt: skip


@torch.no_grad()
def micro_stats(
    micro: MicroBatch,
    policy: Tensor,
    entropy: Tensor,
    terms: PolicyTerms,
    kl_term: Tensor | None,
    kl: Tensor | None,
    truncation: float,
) -> Tensor:
    """Sums over the micro-batch's tokens, in the order of NAMES, float64. Spare micro-batches count for nothing."""
    live = (micro.weight > 0).to(policy.dtype)
    log_ratio = finite_difference(policy.detach(), micro.behaviour)
    zero = torch.zeros_like(live)
    policy_loss = micro.weight * terms.loss.detach()
    kl_loss = zero if kl_term is None else micro.weight * kl_term.detach()
    rows = (
        policy_loss + kl_loss, policy_loss, kl_loss, live, live * entropy, zero if kl is None else live * kl,
        live * terms.ratio, live * terms.clipped_low, live * terms.clipped_high,
        live * terms.weight, live * terms.weight.square(), live * (terms.weight > truncation),
        live * log_ratio, live * log_ratio.square(), live * (log_ratio.exp() - log_ratio - 1.0),
        live * ~torch.isfinite(policy.detach() - micro.behaviour),
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
