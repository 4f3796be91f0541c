"""The named choices of the configuration. YAML and the command line give them by member name."""

from __future__ import annotations

from enum import Enum


class EngineKind(Enum):
    """What generates in an actor."""

    vllm = "vllm"  # fast, on GPUs and CPUs
    transformers = "transformers"  # needs no vLLM and starts in a moment; for tests and small machines


class Straggler(Enum):
    """What happens to a group that would be older than eta at its step."""

    wait = "wait"  # the learner waits for it; nothing is thrown away
    evict = "evict"  # it is dropped and counted
    mask = "mask"  # its tokens older than eta leave the loss and are counted


class Preference(Enum):
    """Which of the feasible stored groups the learner takes first."""

    earliest_deadline = "earliest_deadline"
    freshest = "freshest"


class Loss(Enum):
    """Form of the policy loss (recipe, section 3)."""

    clip = "clip"  # PPO with decoupled clip bounds (DAPO), optionally dual clip
    cispo = "cispo"  # the clipped ratio is a constant weight of -A log pi (MiniMax-M1)
    gspo = "gspo"  # the ratio is that of the whole rollout, length-normalised (GSPO)
    m2po = "m2po"  # PPO whose clip bounds keep the second moment of the log-ratio small (M2PO)


class Correction(Enum):
    """How the behaviour policy enters the objective."""

    decoupled = "decoupled"  # PPO on exp(policy - proximal), times a weight from exp(proximal - behaviour)
    bypass = "bypass"  # PPO on exp(policy - behaviour), no weight
    approximate = "approximate"  # decoupled, the proximal policy interpolated by token version instead of recomputed (AReaL)


class Weighting(Enum):
    """What becomes of the weight w = exp(proximal - behaviour)."""

    truncate = "truncate"  # min(w, truncation)
    mask = "mask"  # w, and 0 outside [mask_low, mask_high] (IcePop)
    none = "none"  # 1: the behaviour policy is ignored. Wrong for stale data; here to be compared with


class Rejection(Enum):
    """Whole rollouts that are left out because policy and sampler disagree on them."""

    none = "none"
    geometric = "geometric"  # unless reject_low <= exp(mean(proximal - behaviour)) <= reject_high
    product = "product"  # unless reject_low <= exp(sum(proximal - behaviour)) <= reject_high


class Advantage(Enum):
    """How rewards become advantages."""

    group_std = "group_std"  # (R - mean) / (std + 1e-6)
    group_mean = "group_mean"  # R - mean (Dr.GRPO)
    leave_one_out = "leave_one_out"  # R - mean of the others (RLOO)
    global_norm = "global_norm"  # R - mean, then normalised over the tokens of the batch (REINFORCE++ baseline)


class Aggregation(Enum):
    """What the loss is a mean over, in the mini-batch and over all ranks."""

    token_mean = "token_mean"  # tokens
    sequence_mean = "sequence_mean"  # rollouts, of the mean over their tokens
    sequence_sum = "sequence_sum"  # rollouts, of the sum over their tokens / objective.length_constant (Dr.GRPO)
    prompt_mean = "prompt_mean"  # prompts, of the mean over the tokens of their rollouts


class KLPlacement(Enum):
    """Where KL(policy, reference) enters."""

    loss = "loss"  # a term of its own
    reward = "reward"  # subtracted from every token's advantage


class KLEstimator(Enum):
    """Estimator of KL(policy, reference), with s = log pi_ref - log pi."""

    k1 = "k1"  # -s
    k2 = "k2"  # s^2 / 2
    k3 = "k3"  # exp(s) - s - 1


class KLWeight(Enum):
    """The weight pi / mu that the sampler's distribution asks for."""

    auto = "auto"  # the one with which placement and estimator have the right gradient
    detached = "detached"  # a constant
    live = "live"  # with its gradient
    none = "none"  # 1


class ResetSource(Enum):
    """What a reset of the reference starts from."""

    current = "current"  # the policy as it is
    best = "best"  # the checkpoint with the best validation score; the policy goes back to it too


class Device(Enum):
    """Where tensors live."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
