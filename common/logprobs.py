"""Log-probabilities of tokens: the only place where "position i predicts token i + 1" is written down.

Everything is tempered: log_softmax(logits / temperature), which is what the sampler of the actor drew from (recipe: b, p and
t). Policy, proximal, behaviour and reference log-probabilities all use it, so that ratios and KL speak of the same
distributions. The head runs on completion positions only, in chunks, with float32 logits: bf16 logits cost .015-.05 nat.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KEEP_LOGITS = 1 << 22  # so few logits are kept for the backward pass instead of being made again


def predictors(prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
    """Indices of the hidden states that predict the completion's tokens.

    prompt [P] and completion [T] hold the flat indices at which the tokens lie (P >= 1, T >= 1): the last token of the prompt
    predicts the completion's first, and each of the completion predicts the one after it. Returns [T].
    """
    return np.concatenate((prompt[-1:], completion[:-1]))


def token_logprobs(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Tempered log-probabilities of tokens, and the entropy of their distributions, with its gradient only if asked for.

    logits [..., V] and token_ids [...] int64 belong together position by position (no shift). Returns ([...], [...]) of at
    least float32.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    table = F.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)
    chosen = -F.nll_loss(table.flatten(0, -2), token_ids.flatten(), reduction="none").view(token_ids.shape)
    if entropy_gradient:
        return chosen, -(table.exp() * table).sum(-1)
    with torch.no_grad():
        entropy = -torch.xlogy(probs := table.exp(), probs).sum(-1)
    return chosen, entropy


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    *,
    temperature: Tensor,
    chunk: int,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` of a linear head, never holding more than [chunk, V] logits, or KEEP_LOGITS in all.

    hidden [M, H]: the states that predict token_ids [M] int64; weight [V, H]; temperature [M]. With more than one chunk the
    logits are made again in the backward pass. Returns ([M], [M]) of at least float32.
    """
    if hidden.shape[0] <= chunk:
        return _head_chunk(hidden, weight, bias, token_ids, temperature, entropy_gradient)
    recompute = torch.is_grad_enabled() and hidden.shape[0] * weight.shape[0] > KEEP_LOGITS
    parts = []
    for states, tokens, degrees in zip(hidden.split(chunk), token_ids.split(chunk), temperature.split(chunk), strict=True):
        piece = states, weight, bias, tokens, degrees, entropy_gradient
        if recompute:
            parts.append(checkpoint(_head_chunk, *piece, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_head_chunk(*piece))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _head_chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: Tensor, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Tempers the states [M, H], which are far smaller than the logits [M, V]; a second copy of those would be felt."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    inverse = temperature.to(wide).reciprocal()
    logits = F.linear(hidden.to(wide) * inverse.unsqueeze(-1), weight.to(wide))
    if bias is not None:
        logits.addr_(inverse, bias.to(wide))
    return token_logprobs(logits, token_ids, entropy_gradient=entropy_gradient)
