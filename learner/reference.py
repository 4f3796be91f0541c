"""The frozen policy of the KL term, and its scheduled resets (ProRL, arXiv 2507.12507, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .packing import MicroBatch
from .policy import Policy


class Reference:
    """A frozen copy of the policy. `epoch` counts its resets; it and the weights are part of every checkpoint."""

    def __init__(self, frozen: Policy, epoch: int = 0) -> None:
        self.policy = frozen
        self.epoch = epoch

    @torch.no_grad()
    def logprobs(self, micro: MicroBatch) -> Tensor:
        """Tempered log-probabilities [M] of the micro-batch's tokens under the reference."""
        return self.policy.logprobs(micro)[0]

    @torch.no_grad()
    def reset(self, current: Policy) -> None:
        """reference <- current policy: right after it KL(policy, reference) is exactly 0. Shards stay where they are."""
        for mine, theirs in zip(self.policy.parameters(), current.parameters(), strict=True):
            mine.copy_(theirs)
        self.epoch += 1
