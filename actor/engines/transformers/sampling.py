"""The sampling law of `actor/engines/api.py` on a batch of logits: temperature, nucleus, one uniform number a token.

Inverse transform sampling: the token at which the cumulative distribution passes the uniform number. One number decides a
token, where the Gumbel trick needs one for every entry of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row. Returns (tokens [B] int64, their log-probabilities [B] float32).

    logits [B, V]; temperature and top_p [B] float32; uniform [B] float64 in [0, 1). Rows of temperature 0 are greedy: they
    ignore top_p, and their log-probabilities are those of temperature 1.
    """
    greedy = temperature == 0
    tempered = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    cut = (top_p < 1) & ~greedy
    if cut.any():
        tempered[cut] = _nucleus(tempered[cut], top_p[cut])
    table = tempered.log_softmax(-1)
    # float64: a float32 sum over a large vocabulary would lose the rare tokens
    cumulative = table.double().exp().cumsum(-1)
    total = cumulative[:, -1]
    # strictly below the total in spite of rounding, so that no token of probability 0 is ever chosen
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    tokens = torch.where(greedy, table.argmax(-1), drawn)
    return tokens, table.gather(1, tokens[:, None])[:, 0]


def _nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """`logits` [B, V] with -inf outside the smallest set of tokens whose probabilities reach top_p [B] (the rule of vLLM)."""
    ascending, order = logits.sort(-1)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p[:, None]
    outside[:, -1] = False  # the most probable token stays
    return logits.scatter(-1, order, ascending.masked_fill(outside, -torch.inf))
