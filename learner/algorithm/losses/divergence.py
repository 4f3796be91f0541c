"""DPPO: tokens whose distribution has moved too far leave the loss, where PPO looks at the ratio. Source: arXiv 2602.04879.

    dppo_*   -stop_grad(min(r, MAX_RATIO)) A t, and 0 where an update would go on in a direction in which it went too far:
             A > 0, r > 1 and D > clip_high, or A < 0, r < 1 and D > clip_low
    dppo_tv  D = |pi - mu|
    dppo_kl  D = mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi))
with pi and mu the probabilities of the token under the current policy and under the one that the ratio r = pi / mu is made
with. D is the divergence between "this token" and "any other" (the paper's binary approximations). A ratio says much about rare
tokens, whose probability hardly matters, and little about likely ones.

With correction bypass mu is the sampler, as in the paper. MAX_RATIO is its truncation (section 5.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....common.config.algorithm import ObjectiveConfig
from ..api import LossTerms, Tokens
from ..ratios import exp_ratio

MAX_RATIO = 20.0
# probabilities of "any other token" are at least this
LEAST = 1e-8


def dppo_tv_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """DPPO with the total variation of token against the rest."""
    policy, old = _logprobs(tokens, log_ratio)
    return _masked_loss(tokens, log_ratio, (policy.exp() - old.exp()).abs(), cfg)


def dppo_kl_loss(tokens: Tokens, log_ratio: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    """DPPO with the KL divergence of token against the rest, from the old policy to the current one."""
    policy, old = _logprobs(tokens, log_ratio)
    others, old_others = (-torch.expm1(values).clamp(max=-LEAST) for values in (policy, old))
    divergence = old.exp() * (old - policy) + old_others * (old_others / others).log()
    return _masked_loss(tokens, log_ratio, divergence, cfg)


def _logprobs(tokens: Tokens, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities [M] of current and old policy, as constants: equal where their ratio is not finite."""
    policy = tokens.policy.detach().nan_to_num(0.0, 0.0, 0.0)
    return policy, policy - log_ratio.detach()


def _masked_loss(tokens: Tokens, log_ratio: Tensor, divergence: Tensor, cfg: ObjectiveConfig) -> LossTerms:
    moved, advantage = log_ratio.detach(), tokens.advantage
    ratio = exp_ratio(moved)
    high = (advantage > 0) & (moved > 0) & (divergence > cfg.clip_high)
    low = (advantage < 0) & (moved < 0) & (divergence > cfg.clip_low)
    policy = _logprobs(tokens, log_ratio)[0] + (log_ratio - moved)
    loss = -ratio.clamp(max=MAX_RATIO) * advantage * policy
    return LossTerms(
        loss=torch.where(high | low, torch.zeros_like(loss), loss),
        ratio=ratio,
        clipped_low=low,
        clipped_high=high,
        clipped_dual=torch.zeros_like(high),
    )
