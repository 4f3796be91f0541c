"""The frozen policy that the KL term is measured against. reset_triggers.py decides when the current policy replaces it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches.packing import MicroBatch
from .policy import Policy


class Reference:
    """A frozen copy of the policy. `epoch` counts its resets; every checkpoint holds the epoch and the weights."""

    def __init__(self, frozen: Policy, epoch: int = 0) -> None:
        self.policy = frozen
        self.epoch = epoch

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch) -> Tensor:
        """Compute the tempered log-probabilities [M] of the micro-batch's tokens under the reference."""
        return self.policy.logprobs(micro)[0]

    @torch.no_grad()
    def reset(self, current: Policy) -> None:
        """Copy the current policy to the reference: KL(policy, reference) is exactly 0 right after. Shards stay in place."""
        for frozen, parameter in zip(self.policy.parameters(), current.parameters(), strict=True):
            frozen.copy_(parameter)
        self.epoch += 1
