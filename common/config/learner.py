"""The settings of the learner's step; sections.py has those of the other parts of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import require
from .choices import LrSchedule, Offload, Recompute


@dataclass(kw_only=True, slots=True)
class LrScheduleConfig:
    """The learning rate over a stage, or over a run without stages, as a share of `learner.lr`."""

    kind: LrSchedule = LrSchedule.constant  # the course after the warm-up
    warmup: int = 0  # steps of rise, at the beginning and again after a reset that clears AdamW
    decay: int = 0  # steps of fall; 0: all that the warm-up leaves
    final: float = 0.0  # the share after the fall

    def __post_init__(self) -> None:
        for name in ("warmup", "decay"):
            require(getattr(self, name) >= 0, f"learner.lr_schedule.{name}", getattr(self, name), "0 or more")
        bounded = self.decay > 0 or self.kind is not LrSchedule.warmup_stable_decay
        require(bounded, "learner.lr_schedule.decay", self.decay, "above 0 with kind warmup_stable_decay, which ends with it")
        require(0 <= self.final <= 1, "learner.lr_schedule.final", self.final, "in [0, 1]")


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """The learner's step."""

    minibatches: int = 1  # optimizer updates per batch
    token_budget: int = 4096  # tokens of one packed forward, on each rank
    lr: float = 2e-6  # learning rate of AdamW
    # how it changes over a stage, or a run without stages: {kind: cosine, warmup: 10} and the settings below
    lr_schedule: dict[str, object] = field(default_factory=dict)
    # policy/ess of data of the newest policy (1 unless the engine computes another one): an update with less takes the share
    # sqrt(ess / this) of the learning rate; 0: off
    ess_on_policy: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    weight_decay: float = 0.01  # of AdamW
    # parts of names, such as norm, bias, embed_tokens: parameters whose name contains one have no weight decay
    no_decay: list[str] = field(default_factory=list)
    grad_clip: float = 1.0  # largest global norm of the gradient
    logprob_chunk: int = 1024  # completion positions for which the head computes logits at once
    recompute: Recompute = Recompute.false  # activations that the backward pass computes again
    # torch compiles the decoder layers and the head's work on logits: faster on a GPU, after a minute of compiling
    compile: bool = False
    # parts that live in the memory of the host; only where the learner is sharded: several ranks, or less than float32
    offload: Offload = Offload.none
    max_skipped: int = 3  # the run stops after so many updates in a row that are not finite
    starve_s: float = 1800.0  # the learner stops when it gets no batch for this time
    # the run stops when engine and learner give the same tokens of the same version log-probabilities that differ by more on
    # average: a multiple of .01 nats in float32, .05 in float16 and .25 in bfloat16; 0: no check
    agreement_tolerance: float = 1.0
    fsdp_reshard: bool = True  # with several ranks: shard the parameters again after the forward pass
    # with several ranks: how many share one copy of the model; each group of so many holds its own, and the groups add up their
    # gradients once an update. 0: the ranks of one machine
    shard_ranks: int = 0
    # neighbouring ranks that share each micro-batch, for documents longer than one GPU holds: each has its part of the tokens
    # and, in attention, its part of the heads
    context_parallel: int = 1

    def __post_init__(self) -> None:
        require(self.minibatches >= 1, "learner.minibatches", self.minibatches, "at least 1")
        require(self.token_budget >= 1, "learner.token_budget", self.token_budget, "at least 1")
        require(self.lr > 0, "learner.lr", self.lr, "a positive number")
        require(all(0 <= beta < 1 for beta in self.betas), "learner.betas", list(self.betas), "two numbers in [0, 1)")
        require(self.weight_decay >= 0, "learner.weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.ess_on_policy <= 1, "learner.ess_on_policy", self.ess_on_policy, "in [0, 1]")
        require(self.grad_clip > 0, "learner.grad_clip", self.grad_clip, "a positive number")
        require(self.logprob_chunk >= 1, "learner.logprob_chunk", self.logprob_chunk, "at least 1")
        require(self.max_skipped >= 1, "learner.max_skipped", self.max_skipped, "at least 1")
        require(self.starve_s > 0, "learner.starve_s", self.starve_s, "a positive number of seconds")
        require(self.agreement_tolerance >= 0, "learner.agreement_tolerance", self.agreement_tolerance, "0 or more")
        require(self.shard_ranks >= 0, "learner.shard_ranks", self.shard_ranks, "0 or more")
        require(self.context_parallel >= 1, "learner.context_parallel", self.context_parallel, "at least 1")
