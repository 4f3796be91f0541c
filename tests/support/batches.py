"""Random batches, as the buffer would hand them to the learner, and trainers for them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import (
    Advantage,
    Aggregation,
    Correction,
    Device,
    KLEstimator,
    KLPlacement,
    KLWeight,
    Loss,
    Rejection,
    Straggler,
    Weighting,
)
from prolong.common.config.sections import Config
from prolong.common.types import (
    Batch,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    TicketKind,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
    int32_array,
)
from prolong.learner.algorithm.api import Tokens
from prolong.learner.algorithm.losses.table import build_loss
from prolong.learner.algorithm.objective import PolicyTerms, policy_loss
from prolong.learner.algorithm.samples import samples_of
from prolong.learner.batches.packing import Sample
from prolong.learner.model.policy import Policy, build_policy
from prolong.learner.model.reference import AdapterReference, Reference
from prolong.learner.ranks import Ranks
from prolong.learner.step import StepConfig, Trainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

SAMPLING = Sampling(n=4, temperature=1.2, top_p=1.0, max_tokens=20)
ETA = 2  # of mixed batches

VARIANTS = {  # objectives that look at whole rollouts, prompts or mini-batches; numbers for mixed batches near the policy
    "gspo": {
        "loss": Loss.gspo,
        "rejection": Rejection.geometric,
        "reject_low": 0.9,
        "reject_high": 1.1,
        "aggregation": Aggregation.sequence_mean,
    },
    "m2po": {
        "loss": Loss.m2po,
        "correction": Correction.bypass,
        "second_moment": 0.075,
        "aggregation": Aggregation.prompt_mean,
    },
    "gepo": {
        "loss": Loss.gepo,
        "correction": Correction.bypass,
        "rejection": Rejection.geometric,
        "reject_low": 0.9,
        "reject_high": 1.1,
        "aggregation": Aggregation.sequence_mean,
    },
    "icepop": {
        "dual_clip": 3.0,
        "correction": Correction.decoupled,
        "weighting": Weighting.mask,
        "rejection": Rejection.product,
        "reject_low": 0.3,
        "reject_high": 3.0,
        "mask_low": 0.7,
        "mask_high": 1.6,
        "opsm_delta": 0.1,
        "advantage": Advantage.global_norm,
    },
    "cispo": {
        "loss": Loss.cispo,
        "correction": Correction.approximate,
        "rejection": Rejection.geometric,
        "reject_low": 0.98,
        "reject_high": 1.02,
        "advantage": Advantage.leave_one_out,
        "aggregation": Aggregation.sequence_sum,
        "length_constant": 20.0,
        "kl_placement": KLPlacement.reward,
        "kl_estimator": KLEstimator.k1,
        "kl_weight": KLWeight.detached,
        "entropy_target": 5.0,
    },
}


def random_rollout(rng: np.random.Generator, length: int, vocab: int, version: int, reward: float) -> Rollout:
    """One random completion of `length` tokens, all of one version."""
    return Rollout(
        token_ids=rng.integers(2, vocab, length).astype("<i4").tobytes(),
        behaviour_logprobs=rng.normal(-4.0, 0.5, length).astype("<f4").tobytes(),
        spans=[VersionSpan(version=version, start=0, end=length)],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0),
    )


def random_batch(
    version: int = 0, *, groups: int = 3, n: int = 4, vocab: int = 64, longest: int = 20, generation: int = 1
) -> Batch:
    """A batch of `version`, drawn from a seed that is the version."""
    rng = np.random.default_rng(version)
    members = []
    for i in range(groups):
        prompt = rng.integers(2, vocab, rng.integers(1, 9)).astype("<i4").tobytes()
        rollouts = [random_rollout(rng, int(rng.integers(1, longest)), vocab, version, float(rng.random())) for _ in range(n)]
        members.append(
            Group(
                ordinal=version * groups + i,
                kind=TicketKind.train,
                generation=generation,
                prompt=Prompt(uid=str(i), domain="math", task="sum", text="", token_ids=prompt, verifier="number"),
                setting=ValidationSetting.none,
                sampling=SAMPLING,
                rollouts=rollouts,
                actor="actor-0",
                seconds=0.1,
            )
        )
    return Batch(generation=generation, version=version, groups=members)


def mixed_batch(version: int = ETA, *, groups: int = 4, n: int = 4) -> Batch:
    """A random batch whose groups differ in temperature, whose tokens differ in version, and some of which were cut off."""
    rng = np.random.default_rng(version)
    members = []
    for i, group in enumerate(random_batch(version, groups=groups, n=n).groups):
        rollouts = []
        for j, rollout in enumerate(group.rollouts):
            middle, size = int(rng.integers(0, rollout.num_tokens)), rollout.num_tokens
            spans = [VersionSpan(version=version - ETA + j % 2, start=0, end=middle)] if middle else []
            spans.append(VersionSpan(version=version, start=middle, end=size))
            ended = FinishReason.length if j == 0 else FinishReason.stop
            rollouts.append(msgspec.structs.replace(rollout, spans=spans, finish_reason=ended))
        sampling = msgspec.structs.replace(SAMPLING, n=n, temperature=(1.2, 0.8, 1.0)[i % 3])
        members.append(msgspec.structs.replace(group, rollouts=rollouts, sampling=sampling))
    return Batch(generation=1, version=version, groups=members)


def under_eta(eta: int, batch: Batch) -> Batch:
    """The batch as if its tickets had been issued under `eta`."""
    return msgspec.structs.replace(batch, groups=[msgspec.structs.replace(group, eta=eta) for group in batch.groups])


def solo_logprobs(causal: torch.nn.Module, group: Group, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Tempered log-probabilities and entropies [T] of one rollout alone in a plain forward of transformers."""
    prompt, completion = int32_array(group.prompt.token_ids), int32_array(rollout.token_ids)
    tokens = torch.tensor([*prompt, *completion]).long()
    logits = causal(input_ids=tokens[None], use_cache=False).logits[0] / group.sampling.temperature
    table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return table.gather(1, tokens[len(prompt) :, None])[:, 0], -(table.exp() * table).sum(-1)


@torch.no_grad()
def near_policy(batch: Batch, policy: Policy, *, spread: float = 0.3) -> Batch:
    """The batch as if a sampler had drawn it whose log-probabilities differ from the policy's by about `spread`."""
    rng = np.random.default_rng(batch.version)
    attention = policy.causal.config._attn_implementation
    policy.causal.set_attn_implementation("sdpa")
    groups = []
    for group in batch.groups:
        rollouts = []
        for rollout in group.rollouts:
            own = solo_logprobs(policy.causal, group, rollout)[0].numpy()
            sampled = (own + spread * rng.normal(size=own.shape)).astype("<f4").tobytes()
            rollouts.append(msgspec.structs.replace(rollout, behaviour_logprobs=sampled))
        groups.append(msgspec.structs.replace(group, rollouts=rollouts))
    policy.causal.set_attn_implementation(str(attention))
    return msgspec.structs.replace(batch, groups=groups)


def poison(policy: Policy, batch: Batch, group: int) -> Batch:
    """Make the policy (whose embeddings are not tied) worthless on a token, and give a group's prompt that token."""
    token = 1  # random batches do not have it
    tensors = {name: tensor.clone() for name, tensor in policy.full_parameters()}
    tensors["model.embed_tokens.weight"][token] = float("nan")
    policy.copy_parameters(tensors)
    groups = list(batch.groups)
    prompt = msgspec.structs.replace(groups[group].prompt, token_ids=np.array([token], dtype="<i4").tobytes())
    groups[group] = msgspec.structs.replace(groups[group], prompt=prompt)
    return msgspec.structs.replace(batch, groups=groups)


def variant_config(model: Path, name: str) -> Config:
    """The configuration of the tiny model with one of VARIANTS."""
    cfg = small_config(model)
    cfg.buffer.eta = ETA
    cfg.objective = ObjectiveConfig(**{"kl_beta": 0.1, **VARIANTS[name]})
    return cfg


def unsettle(trainer: Trainer) -> None:
    """Move the reference away from the policy, and switch an entropy bonus on, so that every term has a gradient."""
    assert trainer.reference is not None
    with torch.no_grad():
        for parameter in trainer.reference.policy.parameters():
            parameter.mul_(1.05)
    trainer.entropy_coefficient = 0.01 if trainer.cfg.objective.entropy_target else 0.0


def samples_under(cfg: Config, batch: Batch) -> list[list[Sample]]:
    """The samples of every update of a step under `cfg`."""
    return samples_of(
        batch,
        objective=cfg.objective,
        rewards=cfg.rewards,
        minibatches=cfg.learner.minibatches,
        oldest=cfg.buffer.eta if cfg.buffer.straggler is Straggler.mask else None,
    )


def policy_terms(tokens: Tokens, cfg: ObjectiveConfig) -> PolicyTerms:
    """The policy loss of a micro-batch by itself, for losses that need nothing from the rest of the mini-batch."""
    return policy_loss(tokens, cfg, build_loss(cfg).for_mini_batch([], Ranks()))


def make_policy(
    cfg: Config,
    *,
    trainable: bool = True,
    shard: bool = False,
    mesh: DeviceMesh | None = None,
    dtype: torch.dtype = torch.float64,
    sharing: int = 1,
) -> Policy:
    """The policy of `cfg` on the CPU."""
    policy = build_policy(
        cfg.model,
        device=torch.device("cpu"),
        chunk=cfg.learner.logprob_chunk,
        shard=shard,
        mesh=mesh,
        trainable=trainable,
        recompute=cfg.learner.recompute,
        sharing=sharing,
    )
    # shards have the dtypes that they were loaded in
    return policy if shard else policy.to(dtype)


def make_trainer(cfg: Config, *, dtype: torch.dtype = torch.float64) -> Trainer:
    """A single-rank trainer with a reference equal to the policy, if there is a KL term."""
    policy = make_policy(cfg, dtype=dtype)
    frozen = AdapterReference(policy) if cfg.model.lora else Reference(make_policy(cfg, trainable=False, dtype=dtype))
    return Trainer(StepConfig.of(cfg), policy, frozen if cfg.objective.kl_beta else None, Ranks(), torch.device("cpu"))


def small_config(model: Path) -> Config:
    """A configuration for the tiny model in which nothing clips the gradient."""
    cfg = Config()
    cfg.model.path = str(model)
    cfg.model.attention = "documents"
    cfg.model.device, cfg.model.dtype = Device.cpu, "float32"
    cfg.sampling.temperature = 1.2
    cfg.learner.lr = 1e-3
    cfg.learner.grad_clip = 1e9
    cfg.learner.token_budget = 64
    # random batches were drawn by nobody
    cfg.learner.agreement_tolerance = 0.0
    cfg.objective.kl_beta = 0.1
    return cfg


def assert_same_gradient(left: list[torch.Tensor], right: list[torch.Tensor], *, rel: float = 1e-6) -> None:
    """As one vector, they differ by at most `rel` of their length (norms compute in float32 even in a float64 model)."""
    distance = torch.stack([(a - b).norm() for a, b in zip(left, right, strict=True)]).norm()
    length = torch.stack([a.norm() for a in left]).norm()
    assert length > 0
    assert distance <= rel * length, f"gradients differ by {float(distance / length):.2e} of their length"
