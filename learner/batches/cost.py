"""The predicted cost of micro-batches, by which packing shares them between ranks (packing.py).

Ranks wait for one another in every layer of every micro-batch. Tokens alone predict badly how long one takes: attention grows
with the square of a document's length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """FLOPs of a model's forward pass, by what they grow with. Training takes about the same multiple of each."""

    # of each token of the row: everything but attention and head
    token: float
    # of each token with a loss: the head
    target: float = 0.0
    # (window, FLOPs of each pair of tokens of a document of which one sees the other), for each kind of layer
    attention: tuple[tuple[int | None, float], ...] = ()

    def document(self, length: int, first: int = 0) -> float:
        """FLOPs of attention for the tokens of a document from `first` on."""
        return sum(flops * (_pairs(length, window) - _pairs(first, window)) for window, flops in self.attention)


# where nothing is known of the model, tokens are the cost
TOKENS = ForwardCost(token=1.0)


def _pairs(length: int, window: int | None) -> float:
    """Count the pairs of tokens in a document of which one sees the other; every token sees itself."""
    near = length if window is None else min(length, window)
    return near * (near + 1) / 2 + (length - near) * near
