"""The policy that the KL term is measured against. It is frozen, or the exponential average of policies (`reference.ema`).

reset_triggers.py decides when the current policy replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..batches.packing import MicroBatch
from .lora import adapted_layers, reference_factors, switched_to_reference
from .policy import Policy
from .sharding import reshard_all


class Reference:
    """A copy of the policy that gets no gradient. `epoch` counts its resets; every checkpoint holds the epoch and the weights.

    `averages` counts the averages that this process made.
    """

    def __init__(self, frozen: Policy, epoch: int = 0) -> None:
        self.policy = frozen
        self.epoch = epoch
        self.averages = 0

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch) -> Tensor:
        """Compute the tempered log-probabilities [M] of the micro-batch's tokens under the reference."""
        return self.policy.logprobs(micro)[0]

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what a checkpoint holds of the reference, by the names of the policy, each tensor as this rank holds it."""
        yield from self.policy.stored_tensors()

    @torch.no_grad()
    def reset(self, current: Policy) -> None:
        """Copy the current policy to the reference: KL(policy, reference) is exactly 0 right after. Shards stay in place."""
        own = dict(current.stored_tensors())
        for name, frozen in self.stored_tensors():
            frozen.copy_(own[name])
        self.epoch += 1

    @torch.no_grad()
    def average(self, current: Policy, kept: float) -> None:
        """Become kept * reference + (1 - kept) * policy, each rank its own shards. Source: EMA-PG's anchor, arXiv 2602.04417.

        The weights must be float32 or wider: an average in half precision would lose all small steps.
        """
        own = dict(current.stored_tensors())
        for name, frozen in self.stored_tensors():
            target, source = _held(frozen), _held(own[name])
            if not target.is_floating_point():
                target.copy_(source)
                continue
            assert torch.finfo(target.dtype).bits >= 32, f"{name} is {target.dtype}"
            target.lerp_(source.to(target), 1.0 - kept)
        self.averages += 1


class AdapterReference(Reference):
    """The reference of a policy with adapters: the policy's base with other adapters, which are zero before the first reset."""

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch) -> Tensor:
        """As in `Reference`."""
        with switched_to_reference(self.policy):
            return super().logprobs(micro)

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As in `Reference`: the adapters alone."""
        reshard_all(self.policy)
        for name, layer in adapted_layers(self.policy.causal):
            yield from reference_factors(name, layer)


def _held(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
