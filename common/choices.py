"""The named choices of the configuration. YAML and the command line give them by member name."""

from __future__ import annotations

from enum import Enum


class Straggler(Enum):
    """What happens to a group that would be older than eta at its step."""

    wait = "wait"  # the learner waits for it; nothing is thrown away
    evict = "evict"  # it is dropped and counted
    mask = "mask"  # its tokens older than eta leave the loss and are counted


class Preference(Enum):
    """Which of the feasible stored groups the learner takes first."""

    earliest_deadline = "earliest_deadline"
    freshest = "freshest"


class Correction(Enum):
    """How the behaviour policy enters the objective (recipe: decoupled PPO, or two policies only)."""

    decoupled = "decoupled"  # weight exp(proximal - behaviour), truncated, times PPO on exp(policy - proximal)
    bypass = "bypass"  # PPO on exp(policy - behaviour), no weight


class Advantage(Enum):
    """How rewards of a group become advantages."""

    group_std = "group_std"  # (R - mean) / (std + 1e-6)
    group_mean = "group_mean"  # R - mean


class Aggregation(Enum):
    """What the loss is a mean over."""

    token_mean = "token_mean"  # tokens of the mini-batch, over all ranks
    sequence_mean = "sequence_mean"  # rollouts, of the mean over their tokens


class KLEstimator(Enum):
    """Estimator and weight of KL(policy, reference) in the loss; only pairs whose gradient is right exist."""

    k2 = "k2"  # stop_grad(w) * k2: reverse KL's gradient, exactly
    k3 = "k3"  # live w * k3: reverse KL's gradient, lower variance


class Device(Enum):
    """Where tensors live."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
