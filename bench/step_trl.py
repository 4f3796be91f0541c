"""A learner step of prolong against TRL's GRPO step: same model, same rollouts of mixed lengths, one thread, rounds A B A B.

    make install-trl && prolong bench step-trl [--vocab 32000 152000] [--rounds 2] --json

Both compute the same gradient, which the norms show. TRL pads every rollout to the longest of the batch and repeats the prompt;
on a CPU, unlike on a GPU, its head scores prompts and padding too. Each round of each side is a process of its own, for whose
peak of memory the operating system is asked; its first step is left out of the times. Rollouts are random tokens of lognormal
lengths.
Files between the processes: {"settings": ..., "rollouts": [{"prompt", "completion", "advantage", "reward", "group"}]} and
{"steps": [{"wall_s", "cpu_s", "grad_norm"}], "peak_bytes"}.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ..common.config.algorithm import ObjectiveConfig
from ..common.config.choices import Advantage, Correction, Device, Weighting
from ..common.config.sections import Config, LearnerConfig, ModelConfig
from ..common.json_object import JsonObject
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
from ..learner.algorithm.advantages import batch_advantages
from ..learner.model.policy import build_policy
from ..learner.ranks import Ranks
from ..learner.step import StepConfig, Trainer
from .learner_step import make_demo_shaped_model
from .measure import median_ratio, report

SCRIPT = Path(__file__).parent / "trl_step.py"
SETTINGS: JsonObject = {
    "groups": 2,
    "n": 8,
    "prompt": 64,
    "median": 60,
    "sigma": 0.8,
    "longest": 400,
    "lr": 1e-5,
    "clip_low": 0.2,
    "clip_high": 0.28,
    "steps": 2,
    # TRL: rollouts of a micro-batch; prolong: tokens of one
    "micro_rollouts": 8,
    "token_budget": 1024,
    "logprob_chunk": 128,
}


def make_step_model(folder: Path, vocab: int) -> None:
    """Save a random Qwen3 whose head is most of its work, as in small models with large vocabularies."""
    shape = {"vocab_size": vocab, "num_hidden_layers": 4, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    make_demo_shaped_model(folder, **shape)


def draw_rollouts(vocab: int) -> list[JsonObject]:
    """Draw groups of rollouts of mixed lengths, with their advantages."""
    rng = np.random.default_rng(0)
    n, rollouts = SETTINGS["n"], []
    for group in range(SETTINGS["groups"]):
        prompt = rng.integers(2, vocab, SETTINGS["prompt"]).tolist()
        rewards = rng.permutation(np.arange(n) % 2).astype(float)
        lengths = np.clip(rng.lognormal(np.log(SETTINGS["median"]), SETTINGS["sigma"], n), 8, SETTINGS["longest"]).astype(int)
        (advantages,) = batch_advantages([rewards], [lengths], Advantage.group_std)
        for reward, advantage, length in zip(rewards.tolist(), advantages.tolist(), lengths.tolist(), strict=True):
            completion = rng.integers(2, vocab, length).tolist()
            rollouts.append(
                {"group": group, "prompt": prompt, "completion": completion, "advantage": advantage, "reward": reward}
            )
    return rollouts


def recorded_batch(rollouts: list[JsonObject]) -> Batch:
    """The rollouts as the buffer hands them out."""
    groups = []
    for ordinal in sorted({rollout["group"] for rollout in rollouts}):
        members = [rollout for rollout in rollouts if rollout["group"] == ordinal]
        prompt = np.array(members[0]["prompt"], dtype="<i4").tobytes()
        groups.append(
            Group(
                ordinal=ordinal,
                kind=TicketKind.train,
                generation=1,
                prompt=Prompt(uid=str(ordinal), domain="d", task="t", text="", token_ids=prompt, verifier="none"),
                setting=ValidationSetting.none,
                sampling=Sampling(n=len(members), temperature=1.0, top_p=1.0, max_tokens=SETTINGS["longest"]),
                rollouts=[_rollout(member["completion"], member["reward"]) for member in members],
                actor="a",
                seconds=0.0,
            )
        )
    return Batch(generation=1, version=0, groups=groups)


def _rollout(completion: list[int], reward: float) -> Rollout:
    return Rollout(
        token_ids=np.array(completion, dtype="<i4").tobytes(),
        behaviour_logprobs=np.full(len(completion), -10.0, dtype="<f4").tobytes(),
        spans=[VersionSpan(version=0, start=0, end=len(completion))],
        finish_reason=FinishReason.stop,
        verdict=Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0),
    )


def run_prolong_steps(batch: Path, model: str, out: Path) -> None:
    """The counterpart of trl_step.py: some steps of prolong's learner."""
    torch.set_num_threads(1)
    content = json.loads(batch.read_text())
    settings = content["settings"]
    cfg = Config(
        model=ModelConfig(path=model, device=Device.cpu, dtype="float32"),
        learner=LearnerConfig(
            token_budget=settings["token_budget"],
            logprob_chunk=settings["logprob_chunk"],
            lr=settings["lr"],
            agreement_tolerance=0.0,
        ),
        # TRL has no weight for the sampler's log-probabilities, which are made up here
        objective=ObjectiveConfig(
            kl_beta=0.0,
            clip_low=settings["clip_low"],
            clip_high=settings["clip_high"],
            correction=Correction.decoupled,
            weighting=Weighting.none,
        ),
    )
    cpu = torch.device("cpu")
    policy = build_policy(cfg.model, device=cpu, chunk=cfg.learner.logprob_chunk, shard=False)
    trainer = Trainer(StepConfig.of(cfg), policy, None, Ranks(), cpu)
    rollouts = recorded_batch(content["rollouts"])
    steps = []
    for _ in range(settings["steps"]):
        wall, used = time.perf_counter(), time.process_time()
        metrics = trainer.train(rollouts)
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - used}
        steps.append(seconds | {"grad_norm": metrics["learner/grad_norm"]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.write_text(json.dumps({"steps": steps, "peak_bytes": peak}))


def timed_side(command: list[str], root: Path, model: Path) -> JsonObject:
    """Run one side in a process: CPU seconds and clock of its later steps, norm of the first gradient, peak of its memory."""
    out = root / "out.json"
    command += ["--batch", str(root / "batch.json"), "--model", str(model), "--out", str(out)]
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run(command, env=os.environ | quiet, check=True, timeout=1800, capture_output=True)
    result = json.loads(out.read_text())
    later = result["steps"][1:]
    return {
        "cpu_s": statistics.median(step["cpu_s"] for step in later),
        "wall_s": statistics.median(step["wall_s"] for step in later),
        "grad_norm": result["steps"][0]["grad_norm"],
        "peak_gb": result["peak_bytes"] / 1e9,
    }


def race(vocab: int, rounds: int, trl_python: Path, root: Path) -> JsonObject:
    """Both sides in turns on one vocabulary."""
    model = root / f"model-{vocab}"
    make_step_model(model, vocab)
    rollouts = draw_rollouts(vocab)
    (root / "batch.json").write_text(json.dumps({"settings": SETTINGS, "rollouts": rollouts}))
    tokens = sum(len(rollout["completion"]) for rollout in rollouts)
    ours, theirs = [], []
    for _ in range(rounds):
        own = [sys.executable, "-m", "prolong.launch.cli", "bench", "step-trl", "--side"]
        ours.append(timed_side(own, root, model))
        theirs.append(timed_side([str(trl_python), str(SCRIPT)], root, model))
    return {
        "vocab": vocab,
        "completion_tokens": tokens,
        "longest": max(len(rollout["completion"]) for rollout in rollouts),
        "tokens_per_cpu_s": [tokens / side["cpu_s"] for side in ours],
        "trl_tokens_per_cpu_s": [tokens / side["cpu_s"] for side in theirs],
        "speed_over_trl": median_ratio([side["cpu_s"] for side in theirs], [side["cpu_s"] for side in ours]),
        "peak_gb": [side["peak_gb"] for side in ours],
        "trl_peak_gb": [side["peak_gb"] for side in theirs],
        "memory_over_trl": median_ratio([side["peak_gb"] for side in ours], [side["peak_gb"] for side in theirs]),
        "grad_norm": ours[0]["grad_norm"],
        "trl_grad_norm": theirs[0]["grad_norm"],
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="prolong bench step-trl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 152_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trl-python", type=Path, default=Path(".venv-trl/bin/python"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", action="store_true", help="used by the bench itself: one side in this process")
    for name in ("--batch", "--out"):
        parser.add_argument(name, type=Path, help="with --side")
    parser.add_argument("--model", help="with --side")
    args = parser.parse_args(argv)
    if args.side:
        run_prolong_steps(args.batch, args.model, args.out)
        return 0
    if not args.trl_python.exists():
        raise SystemExit(f"no TRL environment at {args.trl_python}: run `make install-trl`")
    with tempfile.TemporaryDirectory() as folder:
        results = [race(vocab, args.rounds, args.trl_python, Path(folder)) for vocab in args.vocab]
    report({"bench": "step-trl", "results": results}, as_json=args.json)
    return 0
