"""The duration of a learner step, compared with a supervised step on the same micro-batches.

    prolong bench learner-step [--rounds 7] [--attention documents|sdpa]

The model has the demo's shape (Qwen3, hidden 128, 3 layers, 0.6 M parameters), and the batch has the demo's size (16 groups of
16). Rounds are interleaved: RL without KL, supervised, RL with KL. The ratios are medians over rounds of supervised time / RL
time, by the clock and in CPU seconds, which other work on the machine disturbs less. The result is one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..common.config.choices import Device
from ..common.config.sections import Config, LearnerConfig, ModelConfig, ObjectiveConfig
from ..common.types import (
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
)
from ..learner.algorithm.samples import samples_of
from ..learner.batches.packing import pack
from ..learner.main import load_policy, load_reference
from ..learner.ranks import Ranks
from ..learner.step import StepConfig, Trainer
from .measure import report

VOCAB = 67


def make_demo_shaped_model(folder: Path, **changes: int | bool) -> str:
    """Save a random model of the demo's shape in `folder`, but for `changes` of its Qwen3Config; returns the path."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    Qwen3ForCausalLM(Qwen3Config.from_dict(shape | changes)).save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the documents of a batch are, in tokens: by default as the demo's."""

    prompt: tuple[int, int] = (8, 12)
    # normally distributed, between the limits
    mean: float = 28
    spread: float = 8
    limits: tuple[int, int] = (8, 48)


def make_batch(groups: int, n: int, seed: int = 0, lengths: Lengths = Lengths()) -> Batch:
    """Draw random groups."""
    rng = np.random.default_rng(seed)
    members = []
    for ordinal in range(groups):
        prompt = rng.integers(2, VOCAB, rng.integers(lengths.prompt[0], lengths.prompt[1] + 1)).astype("<i4").tobytes()
        rollouts = []
        for _ in range(n):
            length = int(np.clip(rng.normal(lengths.mean, lengths.spread), *lengths.limits))
            reward = float(rng.integers(0, 2))
            rollouts.append(
                Rollout(
                    token_ids=rng.integers(2, VOCAB, length).astype("<i4").tobytes(),
                    behaviour_logprobs=rng.normal(-4.2, 0.1, length).astype("<f4").tobytes(),
                    spans=[VersionSpan(version=0, start=0, end=length)],
                    finish_reason=FinishReason.stop,
                    verdict=Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0),
                )
            )
        source = Prompt(uid=str(ordinal), domain="d", task="t", text="", token_ids=prompt, verifier="none")
        members.append(
            Group(
                ordinal=ordinal,
                kind=TicketKind.train,
                generation=1,
                prompt=source,
                setting=ValidationSetting.none,
                sampling=Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=lengths.limits[1]),
                rollouts=rollouts,
                actor="a",
                seconds=0.0,
            )
        )
    return Batch(generation=1, version=0, groups=members)


def build(path: str, attention: str, budget: int, beta: float) -> Trainer:
    """Build a trainer on the CPU; with beta > 0 it has a reference."""
    cfg = Config(
        model=ModelConfig(path=path, attention=attention, device=Device.cpu, dtype="float32"),
        learner=LearnerConfig(
            token_budget=budget, lr=5e-4, betas=(0.9, 0.99), weight_decay=0.0, logprob_chunk=8192, agreement_tolerance=0.0
        ),
        objective=ObjectiveConfig(kl_beta=beta),
    )
    return build_trainer(cfg, Ranks(), torch.device("cpu"))


def build_trainer(cfg: Config, ranks: Ranks, device: torch.device) -> Trainer:
    """Build the trainer of a configuration as the learner does; with objective.kl_beta > 0 it has a reference."""
    policy = load_policy(cfg.model, cfg.learner, ranks, device)
    reference = load_reference(cfg, cfg.model, policy, ranks, device)
    return Trainer(StepConfig.of(cfg), policy, reference, ranks, device)


def sft_step(trainer: Trainer, batch: Batch) -> None:
    """Take a supervised step on `batch`: packing, cross-entropy, backward, clip, AdamW, one host synchronisation."""
    cfg = trainer.cfg
    samples = samples_of(batch, objective=cfg.objective, rewards=cfg.rewards, minibatches=1)[0]
    micros = pack(samples, token_budget=cfg.learner.token_budget, layout=trainer.policy.layout)
    trainer.optimizer.zero_grad(set_to_none=True)
    losses = []
    for micro in micros:
        loss = -(micro.weight * trainer.policy.logprobs(micro)[0]).sum()
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(trainer.policy.parameters(), 1.0)
    trainer.optimizer.step()
    torch.stack(losses).sum().item()


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Measure the (wall, CPU) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]) -> int:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(
        prog="prolong bench learner-step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--attention", default="documents")
    parser.add_argument("--budget", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    batch = make_batch(16, 16)
    with tempfile.TemporaryDirectory() as folder:
        path = make_demo_shaped_model(Path(folder))
        plain = build(path, args.attention, args.budget, 0.0)
        full = build(path, args.attention, args.budget, 1e-3)
    calls = {"rl": lambda: plain.train(batch), "sft": lambda: sft_step(plain, batch), "rl_kl": lambda: full.train(batch)}
    for call in calls.values():
        call()
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(args.rounds)]
    metrics = full.train(batch)
    median = {name: statistics.median(r[name][0] for r in rounds) for name in calls}
    tokens = metrics["learner/tokens"]
    line = {
        "bench": "learner_step",
        "attention": args.attention,
        "token_budget": args.budget,
        "threads": args.threads,
        "rollouts": sum(len(group.rollouts) for group in batch.groups),
        "completion_tokens": tokens,
        "rl_ms": round(1e3 * median["rl"], 1),
        "sft_ms": round(1e3 * median["sft"], 1),
        "rl_with_kl_ms": round(1e3 * median["rl_kl"], 1),
        "reference_ms": round(1e3 * metrics["learner/reference_s"], 1),
        "rl_over_sft_speed": round(statistics.median(r["sft"][0] / r["rl"][0] for r in rounds), 3),
        "rl_over_sft_cpu": round(statistics.median(r["sft"][1] / r["rl"][1] for r in rounds), 3),
        "rl_cpu_s": round(statistics.median(r["rl"][1] for r in rounds), 3),
        "rl_tokens_per_s": round(tokens / median["rl"], 1),
    }
    report(line, as_json=args.json)
    return 0
