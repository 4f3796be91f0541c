"""One set of rollouts for both sides: padded [R, T] tensors for TRL and verl, flat [M] ones for us. All in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = -0.75  # a log-probability where there is no token: a side that forgets its mask gives another result


@dataclass(slots=True)
class Rollouts:
    """R rollouts of ragged lengths, M tokens; groups are consecutive and of equal size."""

    lengths: Tensor  # [R] int64
    group: Tensor  # [R] int64
    rewards: Tensor  # [R]
    advantage: Tensor  # [R]
    policy: Tensor  # [M] log-probabilities, as the following ones
    proximal: Tensor
    behaviour: Tensor
    reference: Tensor

    @property
    def rollout(self) -> Tensor:
        """[M] int64: the rollout of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @property
    def mask(self) -> Tensor:
        """[R, T] bool: True where there is a token."""
        return torch.arange(int(self.lengths.max())) < self.lengths[:, None]

    def padded(self, values: Tensor, padding: float = PADDING) -> Tensor:
        """Per-token values [M] as [R, T]."""
        rows = torch.full(self.mask.shape, padding, dtype=values.dtype)
        return rows.masked_scatter(self.mask, values)

    def part(self, first: int, last: int) -> Rollouts:
        """Rollouts first to last - 1 alone."""
        keep, tokens = slice(first, last), (self.rollout >= first) & (self.rollout < last)
        rollouts = (self.lengths[keep], self.group[keep], self.rewards[keep], self.advantage[keep])
        return Rollouts(*rollouts, *(v[tokens] for v in (self.policy, self.proximal, self.behaviour, self.reference)))


def make_rollouts(seed: int = 0, *, groups: int = 6, size: int = 4, longest: int = 17, drift: float = 0.5) -> Rollouts:
    """Random rollouts. Each policy is `drift` nats (standard deviation per token) away from the one before it."""
    rng = np.random.default_rng(seed)
    count = groups * size
    lengths = rng.integers(1, longest + 1, count)
    tokens = int(lengths.sum())
    behaviour = -rng.exponential(1.5, tokens) - 0.01
    shift = np.repeat(rng.normal(0, drift / 3, count), lengths)  # a rollout as a whole moves as well
    proximal = np.minimum(behaviour + shift + rng.normal(0, drift, tokens), -1e-4)
    policy = np.minimum(proximal + shift + rng.normal(0, drift, tokens), -1e-4)
    reference = np.minimum(policy + rng.normal(0, drift, tokens), -1e-4)
    tensors = (torch.from_numpy(v) for v in (policy, proximal, behaviour, reference))
    return Rollouts(
        torch.from_numpy(lengths),
        torch.arange(groups).repeat_interleave(size),
        torch.from_numpy(rng.uniform(-1.0, 2.0, count)),
        torch.from_numpy(rng.normal(0, 1, count)),
        *tensors,
    )
