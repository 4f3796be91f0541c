"""Log-probabilities of tokens. No other module implements "position i predicts token i + 1".

All of them are tempered: log_softmax(logits / temperature), the distribution that the actor's sampler drew from
(docs/recipe.md). Policy, proximal, behaviour and reference log-probabilities all use it, so that ratios and KL compare the same
distributions. The head runs on completion positions only, in chunks, with float32 logits: bf16 logits cost .015-.05 nat.
States of half precision go through half_head.py, whose products run on tensor cores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .half_head import HALF_TYPES, PLAIN_HEAD, EntropyUse, HeadForm, half_head_logprobs

KEEP_LOGITS = 1 << 22  # up to this many logits are kept for the backward pass; more are computed again there


def predictors(prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
    """Indices of the hidden states that predict the completion's tokens.

    prompt [P] and completion [T] hold the flat indices of the tokens (P >= 1, T >= 1). The last token of the prompt predicts
    the first of the completion, and each token of the completion predicts the next one. Returns [T].
    """
    return np.concatenate((prompt[-1:], completion[:-1]))


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, *, entropy: EntropyUse = EntropyUse.reported
) -> tuple[Tensor, Tensor]:
    """Tempered log-probabilities of tokens, and the entropy of their distributions.

    logits [..., V] and token_ids [...] int64 correspond position by position (no shift). Returns ([...], [...]) of at least
    float32; the second is empty if `entropy` is skipped.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    table = F.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)
    chosen = -F.nll_loss(table.flatten(0, -2), token_ids.flatten(), reduction="none").view(token_ids.shape)
    match entropy:
        case EntropyUse.trained:
            return chosen, -(table.exp() * table).sum(-1)
        case EntropyUse.reported:
            with torch.no_grad():
                return chosen, table.exp().mul_(table).sum(-1).neg_()
        case EntropyUse.skipped:
            return chosen, chosen.new_empty(0)


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    *,
    temperature: Tensor,
    chunk: int,
    entropy: EntropyUse = EntropyUse.reported,
    form: HeadForm = PLAIN_HEAD,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` of a linear head that never holds more than [chunk, V] logits, or KEEP_LOGITS in all.

    hidden [M, H]: the states that predict token_ids [M] int64; weight [V, H]; temperature [M]. With more than one chunk the
    logits are computed again in the backward pass. compiled: torch compiles the work on the logits of half-precision states.
    Returns ([M], [M]) of at least float32; the second is empty if `entropy` is
    skipped.
    """
    if hidden.dtype in HALF_TYPES and hidden.dtype == weight.dtype:
        return half_head_logprobs(
            hidden, weight, bias, token_ids, temperature=temperature, chunk=chunk, entropy=entropy, form=form, compiled=compiled
        )
    if hidden.shape[0] <= chunk:
        return _head_chunk(hidden, weight, bias, token_ids, temperature, entropy, form)
    recompute = torch.is_grad_enabled() and hidden.shape[0] * weight.shape[0] > KEEP_LOGITS
    parts = []
    for states, tokens, degrees in zip(hidden.split(chunk), token_ids.split(chunk), temperature.split(chunk), strict=True):
        piece = states, weight, bias, tokens, degrees, entropy, form
        if recompute:
            parts.append(checkpoint(_head_chunk, *piece, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_head_chunk(*piece))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _head_chunk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    temperature: Tensor,
    entropy: EntropyUse,
    form: HeadForm,
) -> tuple[Tensor, Tensor]:
    """One chunk. The temperature divides the states [M, H], not the far larger logits [M, V], which would be copied."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    inverse = temperature.to(wide).reciprocal()
    if form.scale != 1.0:
        inverse = inverse * form.scale
    if form.soft_cap is None:
        logits = F.linear(hidden.to(wide) * inverse.unsqueeze(-1), weight.to(wide))
        if bias is not None:
            logits.addr_(inverse, bias.to(wide))
        return token_logprobs(logits, token_ids, entropy=entropy)
    linear = F.linear(hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    logits = torch.tanh(linear / form.soft_cap) * (form.soft_cap * inverse).unsqueeze(-1)
    return token_logprobs(logits, token_ids, entropy=entropy)
