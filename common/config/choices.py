"""The choices of the configuration. YAML and the command line name them by member."""

from __future__ import annotations

from enum import Enum


class EngineKind(Enum):
    """The library that generates in an actor."""

    vllm = "vllm"  # fast, on GPUs and CPUs
    transformers = "transformers"  # needs no vLLM and starts in a moment; for tests and small machines


class AlertAnswer(Enum):
    """What the learner does when a limit of `alerts` is passed."""

    log = "log"  # it records the alert and says so in the log, as with every other answer
    reset = "reset"  # it resets the reference and AdamW, as `reference` says
    lower_lr = "lower_lr"  # it multiplies the learning rate by alerts.lr_factor
    stop = "stop"  # it saves and ends the run, which `prolong train` resumes after a change of settings


class Straggler(Enum):
    """The treatment of a group that would be staler than eta when it is trained."""

    wait = "wait"  # the learner waits for it, and nothing is thrown away
    evict = "evict"  # it is dropped and counted
    mask = "mask"  # its tokens older than eta leave the loss and are counted


class Preference(Enum):
    """Which of the stored groups that may be trained now the learner takes first."""

    earliest_deadline = "earliest_deadline"  # those that must be trained soonest
    freshest = "freshest"  # those of the newest version


class DispatchRule(Enum):
    """Which actor is given which ticket."""

    forecast = "forecast"  # one that will bring its group back in time: long work goes to fast actors, slow ones get less
    even = "even"  # the one with the largest share of its room free


class Loss(Enum):
    """Form of the policy loss (docs/recipe.md)."""

    clip = "clip"  # PPO with decoupled clip bounds (DAPO), optionally dual clip
    cispo = "cispo"  # the clipped ratio is a constant weight of -A log pi (MiniMax-M1)
    gspo = "gspo"  # the ratio is that of the whole rollout, length-normalised (GSPO)
    m2po = "m2po"  # PPO whose clip bounds keep the second moment of the log-ratio small (M2PO)
    sapo = "sapo"  # a sigmoid of the ratio in the place of the clip (SAPO)
    gepo = "gepo"  # PPO on the rollout's mean probability over that expected of its group's rollouts (GEPO)
    dppo_tv = "dppo_tv"  # a bound on the change of the token's probability in the place of the clip (DPPO, binary TV)
    dppo_kl = "dppo_kl"  # a bound on the KL of token against all others in the place of the clip (DPPO, binary KL)


class Correction(Enum):
    """How the behaviour policy enters the objective."""

    decoupled = "decoupled"  # PPO on exp(policy - proximal), times a weight from exp(proximal - behaviour)
    bypass = "bypass"  # PPO on exp(policy - behaviour), no weight
    # decoupled, the proximal policy interpolated by token version instead of recomputed (AReaL)
    approximate = "approximate"


class Weighting(Enum):
    """How the behaviour weight w = exp(proximal - behaviour) is bounded."""

    truncate = "truncate"  # min(w, truncation)
    mask = "mask"  # w, and 0 outside [mask_low, mask_high] (IcePop)
    none = "none"  # 1, the behaviour policy is ignored: wrong for stale data, for comparisons only


class Rejection(Enum):
    """Which whole rollouts are left out because policy and sampler disagree about them."""

    none = "none"  # none of them
    geometric = "geometric"  # those whose exp(mean(proximal - behaviour)) is outside [reject_low, reject_high]
    product = "product"  # those whose exp(sum(proximal - behaviour)) is outside [reject_low, reject_high]


class Advantage(Enum):
    """How rewards become advantages."""

    group_std = "group_std"  # (R - mean) / (std + 1e-6)
    group_mean = "group_mean"  # R - mean (Dr.GRPO)
    leave_one_out = "leave_one_out"  # R - mean of the others (RLOO)
    # R - mean, then normalised over the tokens of the batch (REINFORCE++ baseline)
    global_norm = "global_norm"


class Aggregation(Enum):
    """The quantity that the loss averages, over the mini-batch and all ranks."""

    token_mean = "token_mean"  # the mean over tokens
    sequence_mean = "sequence_mean"  # the mean over rollouts of the mean over their tokens
    # the mean over rollouts of the sum over their tokens / objective.length_constant (Dr.GRPO)
    sequence_sum = "sequence_sum"
    prompt_mean = "prompt_mean"  # the mean over prompts of the mean over the tokens of their rollouts


class KLPlacement(Enum):
    """Where KL(policy, reference) enters."""

    loss = "loss"  # as a term of the loss
    reward = "reward"  # subtracted from the advantage of every token


class KLEstimator(Enum):
    """Estimator of KL(policy, reference), with s = log pi_ref - log pi."""

    k1 = "k1"  # -s
    k2 = "k2"  # s^2 / 2
    k3 = "k3"  # exp(s) - s - 1


class KLWeight(Enum):
    """The importance weight pi / mu of the KL term: the tokens were drawn by another policy mu."""

    auto = "auto"  # the one with which the gradient is right for this placement and estimator
    detached = "detached"  # without its gradient
    live = "live"  # with its gradient
    none = "none"  # 1


class LrSchedule(Enum):
    """The course of the learning rate after the warm-up, over a stage or over a run without stages."""

    constant = "constant"  # it stays
    linear = "linear"  # it falls in equal parts
    cosine = "cosine"  # it falls along half a cosine
    warmup_stable_decay = "warmup_stable_decay"  # it stays until the last `decay` steps, and falls in equal parts there


class ResetSource(Enum):
    """The weights that a reset starts from."""

    current = "current"  # those of the policy now
    # those of the checkpoint with the best validation score; the policy returns to them as well
    best = "best"


class Device(Enum):
    """Where tensors live."""

    auto = "auto"  # a GPU if there is one
    cpu = "cpu"  # the CPU
    cuda = "cuda"  # a GPU


class Recompute(Enum):
    """The activations of a layer that the backward pass computes again instead of keeping them. True unless it is `false`."""

    false = "false"  # none
    true = "true"  # all of them: by far the least memory, a third more time
    # all but the results of matrix products and attention: about half of the memory, little more time
    selective = "selective"

    def __bool__(self) -> bool:
        return self is not Recompute.false


class Offload(Enum):
    """The parts of a sharded learner that live in the memory of the host and come to the GPU layer by layer."""

    none = "none"  # nothing
    reference = "reference"  # the reference: every forward pass of it copies the model to the GPU once
    # the policy too, with gradients and optimizer: three more copies an update, and AdamW runs on the CPU
    all = "all"
