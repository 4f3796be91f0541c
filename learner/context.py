"""Context parallelism: ranks that share every micro-batch, for documents longer than one GPU holds.

Rank r of the N ranks of a group holds the tokens r, r + N, r + 2N, ... of a micro-batch's row, and computes everything but
attention for those alone; so every rank has the same share of each document's loss. Attention needs whole documents, but no
other heads: before it, ranks exchange tokens for heads, and after it heads for tokens.

    rank 0    tokens 0 2 4 6  of heads A B          tokens 0 .. 7  of head A
                                             <->
    rank 1    tokens 1 3 5 7  of heads A B          tokens 0 .. 7  of head B

Every rank of the group then gets the log-probabilities of all tokens, because losses look at whole rollouts, and computes the
same loss. Its gradient goes through the rank's own tokens alone, so gradients add up over the group as they do over ranks.
Source: DeepSpeed-Ulysses, arXiv 2309.14509; here tokens are dealt out in turn instead of in runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """Rank `rank` of the `size` ranks that share micro-batches."""

    rank: int
    size: int
    group: dist.ProcessGroup

    def to_heads(self, part: Tensor) -> Tensor:
        """Exchange this rank's tokens of all heads [1, heads, T, D] for all tokens of its heads [1, heads / N, T * N, D].

        Fewer heads than ranks are repeated: neighbouring ranks get the same one.
        """
        heads = part.shape[1]
        if heads % self.size:
            assert self.size % heads == 0, f"{heads} heads cannot be shared by {self.size} ranks"
            part = part.repeat_interleave(self.size // heads, dim=1)
        received = _swap(part[0].unflatten(0, (self.size, -1)), self.group)  # [N, heads / N, T, D], by rank of the tokens
        return received.permute(1, 2, 0, 3).flatten(1, 2).unsqueeze(0)

    def to_tokens(self, result: Tensor) -> Tensor:
        """Exchange all tokens of this rank's heads [1, T * N, heads / N, D] for its tokens of all heads [1, T, heads, D]."""
        by_rank = result[0].unflatten(0, (-1, self.size)).transpose(0, 1)  # [N, T, heads / N, D]
        received = _swap(by_rank, self.group)  # by rank of the heads
        return received.transpose(0, 1).flatten(1, 2).unsqueeze(0)

    def own_heads(self, values: Tensor) -> Tensor:
        """Cut this rank's heads out of [heads]."""
        return values.view(self.size, -1)[self.rank]

    def gather(self, values: Tensor) -> Tensor:
        """Return the values [m] of every rank, one rank after another [N * m]. Collective.

        All ranks go on alike with them, so the gradient of the own values is the one that arrives here.
        """
        gathered = values.new_empty(self.size * len(values))
        dist.all_gather_into_tensor(gathered, values.detach().contiguous(), group=self.group)
        start = self.rank * len(values)
        return torch.cat((gathered[:start], values, gathered[start + len(values) :]))


def _swap(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    return _Swap.apply(parts, group)  # pyright: ignore[reportReturnType]


class _Remembers(Protocol):
    """What torch hands to both passes of `_Swap`."""

    group: dist.ProcessGroup


class _Swap(torch.autograd.Function):
    """Send parts[i] to rank i, and put what rank i sent in its place. The gradient goes back the same way."""

    @staticmethod
    def forward(ctx: _Remembers, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(parts, group)

    @staticmethod
    @once_differentiable
    # the decorator hides the parameter's name from the type checker
    def backward(ctx: _Remembers, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _all_to_all(grad, ctx.group), None


def _all_to_all(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received
