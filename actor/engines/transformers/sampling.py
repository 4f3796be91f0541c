"""The sampling law of `actor/engines/api.py` on a batch of logits: temperature, cuts, one uniform number a token.

Inverse transform sampling: the token at which the cumulative distribution passes the uniform number. One number decides a
token, where the Gumbel trick needs one for every entry of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cuts:
    """Which tokens of the tempered distribution may be drawn, for each row of a batch."""

    min_p: Tensor  # [B] float32, a multiple of the largest probability; 0: off
    top_k: Tensor  # [B] int64; 0: off
    top_p: Tensor  # [B] float32; 1: off

    def applied(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """`logits` [B, V] with -inf outside the cuts in the rows that are `wanted` [B] bool; in vLLM's order."""
        for on, cut, value in (
            (self.min_p > 0, _least, self.min_p),
            (self.top_k > 0, _most_probable, self.top_k),
            (self.top_p < 1, _nucleus, self.top_p),
        ):
            rows = on & wanted
            if rows.any():
                logits[rows] = cut(logits[rows], value[rows])
        return logits


def sample(logits: Tensor, temperature: Tensor, cuts: Cuts, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row. Returns (tokens [B] int64, their log-probabilities [B] float32).

    logits [B, V]; temperature [B] float32; uniform [B] float64 in [0, 1). Rows of temperature 0 are greedy: they ignore
    `cuts`, and their log-probabilities are those of temperature 1.
    """
    greedy = temperature == 0
    tempered = cuts.applied(logits.float() / torch.where(greedy, 1.0, temperature)[:, None], ~greedy)
    table = tempered.log_softmax(-1)
    tokens = torch.where(greedy, table.argmax(-1), drawn_tokens(table, uniform))
    return tokens, table.gather(1, tokens[:, None])[:, 0]


def drawn_tokens(table: Tensor, uniform: Tensor) -> Tensor:
    """The token [B] int64 that each row's number chooses. table [B, V] log-probabilities; uniform [B] float64 in [0, 1)."""
    # float64: a float32 sum over a large vocabulary would lose the rare tokens
    cumulative = table.double().exp().cumsum(-1)
    total = cumulative[:, -1]
    # strictly below the total in spite of rounding, so that no token of probability 0 is ever chosen
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def _least(logits: Tensor, min_p: Tensor) -> Tensor:
    """`logits` [B, V] with -inf where the probability is less than min_p [B] times the largest."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log()[:, None], -torch.inf)


def _most_probable(logits: Tensor, top_k: Tensor) -> Tensor:
    """`logits` [B, V] with -inf below the top_k-th [B] largest; equals of that one stay, as in vLLM."""
    places = top_k.clamp(max=logits.shape[-1])[:, None] - 1
    threshold = logits.sort(-1, descending=True).values.gather(-1, places)
    return logits.masked_fill(logits < threshold, -torch.inf)


def _nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """`logits` [B, V] with -inf outside the smallest set of tokens whose probabilities reach top_p [B] (the rule of vLLM)."""
    ascending, order = logits.sort(-1)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p[:, None]
    outside[:, -1] = False  # the most probable token stays
    return logits.scatter(-1, order, ascending.masked_fill(outside, -torch.inf))
