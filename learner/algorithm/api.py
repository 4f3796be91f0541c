"""The seam for policy losses: the surrogate objective of a token, before behaviour weights, KL and entropy are added.

    Trainer        loss = build_loss(cfg)                        once per configuration (a stage may bring another)
    update         token_loss = loss.for_mini_batch(micros, ranks)    once, before the first backward
    micro-batch    terms = token_loss(tokens, log_ratio)         once; objective.py weighs and masks `terms.loss`

A loss that looks at tokens or rollouts is a function: wrap it in losses.per_token.PerToken. A loss that must see the whole
mini-batch first, as M2PO does, is a class with `for_mini_batch`. Both are entries of losses/table.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..batches.packing import MicroBatch
from ..ranks import Ranks


@dataclass(slots=True)
class Tokens:
    """The inputs of one micro-batch's loss: M tokens of R rollouts, each rollout whole in it.

    All log-probabilities are tempered. Only `policy` carries a gradient.
    """

    # [M] log-probabilities under the current policy
    policy: Tensor
    # [M] log-probabilities under the proximal policy: the learner's, when the batch arrived
    proximal: Tensor
    # [M] log-probabilities under the behaviour policy, which sampled the tokens
    behaviour: Tensor
    advantage: Tensor  # [M]
    # [M] versions between the token's sampler and the proximal policy, 0 or more
    staleness: Tensor
    # [M] int64, the token's rollout, from 0 to num_rollouts - 1
    rollout: Tensor
    num_rollouts: int
    # [R] int64, the ordinal of the rollout's group, other rollouts of which may be elsewhere; empty where no loss reads it
    group: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


@dataclass(slots=True)
class LossTerms:
    """The results of a policy loss, per token [M]. Only `loss` carries a gradient."""

    # to minimise, before the behaviour weight
    loss: Tensor
    # the ratio that was clipped (loss gspo: the rollout's)
    ratio: Tensor
    # bool: the ratio was below its lower bound, and that took the gradient
    clipped_low: Tensor
    # bool: the ratio was above its upper bound, and that took the gradient (loss cispo: bounded it)
    clipped_high: Tensor
    # bool: the dual clip took the gradient
    clipped_dual: Tensor


class TokenLoss(Protocol):
    """A policy loss during one update."""

    def __call__(self, tokens: Tokens, log_ratio: Tensor) -> LossTerms:
        """Compute the loss of every token of a micro-batch.

        Called once per micro-batch, under autograd, on the model's device. It must not wait for the device or for other
        ranks, and must not change its arguments. log_ratio [M] carries the gradient of tokens.policy; it is 0, without
        gradient, where it would not be finite. Tokens of weight 0 arrive too: spare micro-batches repeat real ones.

        Example: loss = -tokens.advantage * log_ratio.exp()
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return the metrics of this update besides those of every loss, as `policy/NAME`. Must not wait for the device."""
        ...


class PolicyLoss(Protocol):
    """A policy loss, built from the configuration and used for every update until the configuration changes."""

    @property
    def needs_proximal(self) -> bool:
        """Whether `for_mini_batch` reads `MicroBatch.proximal`. It costs a forward of the batch where nothing else needs it."""
        ...

    def for_mini_batch(self, micros: Sequence[MicroBatch], ranks: Ranks) -> TokenLoss:
        """Look at the whole mini-batch and return the loss of its tokens.

        Called on every rank, once per update, before the first backward, with this rank's micro-batches: every rank has
        the same number of them. It may wait for the device and for other ranks (all of them call it). It must not change
        the micro-batches, and must return the same loss on every rank. Spare micro-batches have weight 0 throughout and
        must not count. `proximal` is filled on every micro-batch if `needs_proximal`.

        Example: `SecondMomentLoss` gathers the log-ratios of all ranks and returns a clip with bounds made of them.
        """
        ...
