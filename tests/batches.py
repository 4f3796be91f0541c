"""Random batches, as the buffer would hand them to the learner, and what is needed to train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from prolong.common.config import Config
from prolong.common.types import Batch, FinishReason, Group, Prompt, Rollout, TicketKind, Verdict, VersionSpan
from prolong.learner.policy import Policy, build_policy
from prolong.learner.ranks import Ranks
from prolong.learner.reference import Reference
from prolong.learner.step import Trainer


def random_rollout(rng: np.random.Generator, length: int, vocab: int, version: int, reward: float) -> Rollout:
    """One random completion of `length` tokens, all of one version."""
    return Rollout(
        token_ids=rng.integers(2, vocab, length).astype("<i4").tobytes(),
        behaviour_logprobs=rng.normal(-4.0, 0.5, length).astype("<f4").tobytes(),
        spans=[VersionSpan(version=version, start=0, end=length)],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=reward, status="ok", verifier="none", seconds=0.0),
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
                setting="",
                rollouts=rollouts,
                actor="actor-0",
                seconds=0.1,
            )
        )
    return Batch(generation=generation, version=version, groups=members)


def make_policy(cfg: Config, *, trainable: bool = True, shard: bool = False, dtype: torch.dtype = torch.float64) -> Policy:
    """The policy of `cfg` on the CPU."""
    policy = build_policy(
        cfg.model,
        device=torch.device("cpu"),
        temperature=cfg.sampling.temperature,
        chunk=cfg.learner.logprob_chunk,
        shard=shard,
        trainable=trainable,
        recompute=cfg.learner.recompute,
    )
    return policy.to(dtype)


def make_trainer(cfg: Config, *, dtype: torch.dtype = torch.float64) -> Trainer:
    """A single-rank trainer with a reference equal to the policy, if there is a KL term."""
    reference = Reference(make_policy(cfg, trainable=False, dtype=dtype)) if cfg.objective.kl_beta else None
    return Trainer(cfg, make_policy(cfg, dtype=dtype), reference, Ranks(), torch.device("cpu"))


def small_config(model: Path) -> Config:
    """A configuration for the tiny model in which nothing clips the gradient."""
    cfg = Config()
    cfg.model.path = str(model)
    cfg.model.attention = "documents"
    cfg.sampling.temperature = 1.2
    cfg.learner.lr = 1e-3
    cfg.learner.grad_clip = 1e9
    cfg.learner.token_budget = 64
    cfg.objective.kl_beta = 0.1
    return cfg


def assert_same_gradient(left: list[torch.Tensor], right: list[torch.Tensor], *, rel: float = 1e-6) -> None:
    """As one vector, they differ by at most `rel` of their length (norms compute in float32 even in a float64 model)."""
    distance = torch.stack([(a - b).norm() for a, b in zip(left, right, strict=True)]).norm()
    length = torch.stack([a.norm() for a in left]).norm()
    assert length > 0
    assert distance <= rel * length, f"gradients differ by {float(distance / length):.2e} of their length"
