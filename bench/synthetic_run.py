"""A run that nobody trained: random rollouts and plausible curves, through the real writers of journal, metrics and summary.

It has what a page about a run has to show: domains that learn at different speeds, resets, stages, faults, stale tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..buffer.journal.journal import Journal, open_journal
from ..buffer.journal.records import BufferState, PromptCursor
from ..common.config.algorithm import StageConfig
from ..common.config.run_files import RunPaths, save_config
from ..common.config.sections import BufferConfig, Config, ModelConfig, RunConfig, SamplingConfig
from ..common.metrics import MetricsWriter
from ..common.tokenizer import Tokenizer
from ..common.types import (
    Batch,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Sampling,
    TicketKind,
    ValidationScore,
    ValidationSetting,
    Verdict,
    VerdictStatus,
    VersionSpan,
)
from ..launch.recipes import CONF_FOLDER
from ..learner.report import batch_metrics, write_summary

MODEL = CONF_FOLDER / "demo"  # whose tokenizer is used
TASKS = {"math": ("addition", "digit_sum"), "logic": ("spell_backward", "number_sorting"), "code": ("arithmetic",)}
EASE = {"math": 1.0, "logic": 0.8, "code": 0.55}  # pass rate of a domain, relative to math
POOL = 2048  # completions that all rollouts are drawn from, at most
ETA = 2
SWEEP = 20  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSize:
    """How large a run is made."""

    steps: int = 2_000
    groups: int = 64  # per step
    n: int = 8
    tokens: int = 64  # of a completion, in the median
    prompts: int = 2_000

    @property
    def rollouts(self) -> int:
        return self.steps * self.groups * self.n


class Author:
    """Writes what models could have written."""

    def __init__(self, size: SyntheticSize, seed: int) -> None:
        self._size, self._rng = size, np.random.default_rng(seed)
        self._tokenizer = Tokenizer.load(str(MODEL))
        self._prompts = [self._prompt(number) for number in range(size.prompts)]
        self._completions = [self._completion() for _ in range(min(POOL, size.rollouts))]
        self._logprobs = -self._rng.exponential(0.3, size=1 << 16).astype("<f4")

    def _prompt(self, number: int) -> Prompt:
        pairs = [(domain, task) for domain, tasks in TASKS.items() for task in tasks]
        domain, task = pairs[number % len(pairs)]
        left, right = (int(each) for each in self._rng.integers(10, 999, 2))
        text = f"{left} + {right} = ? Put the answer in \\boxed{{}}."
        ids = self._tokenizer.encode(text).tobytes()
        answer = json.dumps({"answer": str(left + right)})
        return Prompt(
            uid=f"{domain}/{task}/{number}", domain=domain, task=task, text=text, token_ids=ids, verifier="math", answer=answer
        )

    def _completion(self) -> np.ndarray:
        length = max(4, int(self._size.tokens * self._rng.lognormal(0.0, 0.5)))
        words = self._rng.choice(["+", "=", "so", "carry", "\n", "is", "then", "first", *map(str, range(100))], length)
        return self._tokenizer.encode(f"<think>{' '.join(words)}</think>\\boxed{{{self._rng.integers(0, 999)}}}")[:length]

    def batch(self, version: int) -> Batch:
        """The batch of the step that starts from `version`."""
        skill = _skill(version, self._size.steps)
        groups = [self._group(version, version * self._size.groups + i, skill) for i in range(self._size.groups)]
        validation = [self._score(version - 1, skill)] if version % SWEEP == 1 else []
        return Batch(
            generation=1, version=version, groups=groups, validation=validation, metrics=_of_buffer(version, self._size)
        )

    def _group(self, version: int, ordinal: int, skill: float) -> Group:
        prompt = self._prompts[int(self._rng.integers(len(self._prompts)))]
        return Group(
            ordinal=ordinal,
            kind=TicketKind.train,
            generation=1,
            prompt=prompt,
            setting=ValidationSetting.none,
            sampling=Sampling(n=self._size.n, temperature=1.0, top_p=1.0, max_tokens=4 * self._size.tokens),
            eta=ETA,
            rollouts=[self._rollout(version, skill * EASE[prompt.domain]) for _ in range(self._size.n)],
            actor=f"actor-{ordinal % 4}",
            seconds=2.0,
        )

    def _rollout(self, version: int, chance: float) -> Rollout:
        draw = self._rng.random(4)
        ids = self._completions[int(draw[0] * len(self._completions))]
        start = int(draw[1] * (len(self._logprobs) - len(ids)))
        oldest = max(0, version - int(draw[2] * (ETA + 1)))
        middle = len(ids) // 2
        spans = [VersionSpan(version=oldest, start=0, end=middle or len(ids))]
        if middle:
            spans.append(VersionSpan(version=min(version, oldest + 1), start=middle, end=len(ids)))
        right = draw[3] < chance
        status = VerdictStatus.ok if right or draw[1] < 0.9 else VerdictStatus.no_answer
        return Rollout(
            token_ids=ids.tobytes(),
            behaviour_logprobs=self._logprobs[start : start + len(ids)].tobytes(),
            spans=spans,
            finish_reason=FinishReason.stop if len(ids) < 4 * self._size.tokens else FinishReason.length,
            verdict=Verdict(reward=float(right), status=status, verifier="math", seconds=1e-3),
        )

    def _score(self, version: int, skill: float) -> ValidationScore:
        scores = {f"{domain}/{task}": skill * EASE[domain] for domain, tasks in TASKS.items() for task in tasks}
        noise = self._rng.normal(0.0, 0.01, len(scores))
        by_task = {
            name: float(np.clip(score + shift, 0, 1)) for (name, score), shift in zip(scores.items(), noise, strict=True)
        }
        mean = sum(by_task.values()) / len(by_task)
        setting = ValidationSetting.sampled
        return ValidationScore(
            version=version, versions=[version], setting=setting, by_task=by_task, mean=mean, num_rollouts=256
        )


def _skill(version: int, steps: int) -> float:
    """The pass rate of an easy task: it rises fast, then slowly."""
    return 0.1 + 0.8 * (1 - math.exp(-4 * version / steps))


def fault_every(size: SyntheticSize) -> int:
    """Steps between lost leases."""
    return max(7, size.steps // 6)


def _of_buffer(version: int, size: SyntheticSize) -> dict[str, float]:
    trained = float(version * size.groups)
    lost = float(version % fault_every(size) == 5)
    return {
        "buffer/staleness_mean": 1.0 + 0.2 * math.sin(version / 30),
        "buffer/staleness_max": float(ETA),
        "buffer/eta": float(ETA),
        "buffer/held_s": 0.02,
        "buffer/ledger_trained": trained,
        "buffer/ledger_filtered": 0.3 * trained,
        "buffer/ledger_total": 1.3 * trained,
        "buffer/filtered": 0.3 * size.groups,
        "buffer/lost_leases": lost,
        "actor/num_actors": 4.0 - lost,
        "actor/busy_s": 6.5,
        "actor/idle_s": 1.2,
        "actor/weights_s": 0.3,
        "actor/cpu_s": 7.0,
        "actor/helper_cpu_s": 1.0,
        "actor/engine_steps": 2.0 * size.tokens,
        "actor/engine_running": 1.3 * size.groups * size.n * size.tokens,
        "actor/verifiers/verdicts": 1.3 * size.groups * size.n,
        "buffer/bypassed": 0.0,
        "actor/verify_s": 1.5,
        "actor/verifying_s": 1.0,
        "actor/verify_exposed_s": 0.1,
        "actor/generated_rollouts": 1.3 * size.groups * size.n,
        "actor/generated_tokens": 1.3 * size.groups * size.n * size.tokens,
        "actor/weight_updates": 4.0,
        **{f"buffer/survival_d{k}": 1.0 for k in range(10)},
        **{f"perf/actor_tokens_per_s/actor-{k}": 5000.0 + 100 * k + version % 17 for k in range(4)},
    }


def _of_learner(step: int, size: SyntheticSize, tokens: float, rng: np.random.Generator) -> dict[str, float]:
    since_reset = (step % max(1, size.steps // 5)) / max(1, size.steps // 5)
    noise = float(rng.normal())
    return {
        "learner/tokens": tokens * size.groups * size.n,
        "learner/step_s": 2.0 + 0.1 * abs(noise),
        "learner/wait_s": 0.8 + 0.1 * abs(noise),
        "learner/compute_s": 1.1,
        "learner/publish_s": 0.03,
        "learner/checkpoint_s": 0.02,
        "learner/cpu_s": 1.2,
        "learner/lr": 1e-6,
        "learner/grad_norm": 0.3 + 0.05 * abs(noise),
        "learner/entropy": 0.6 * math.exp(-step / size.steps) + 0.01 * noise,
        "learner/skipped": float(step % 911 == 900),
        "reference/kl": 0.02 * since_reset + 0.001 * abs(noise),
        "policy/ess": 0.97 + 0.01 * noise,
        "policy/kl_behaviour_k3": 0.002 + 0.0005 * abs(noise),
        "policy/staleness_0": 0.2,
        "policy/staleness_1": 0.5,
        "policy/staleness_2": 0.3,
        "weights/publish_s": 0.4 + 0.02 * abs(noise),
        "weights/critical_s": 0.02,
        "weights/lag_mean": 0.4,
        "weights/lag_max": 1.0,
        "stage/index": float(3 * (step - 1) // size.steps),
        **({"reference/reset_every": 1.0} if since_reset == 0.0 else {}),
    }


def synthetic_config(folder: Path, size: SyntheticSize) -> Config:
    """The settings of such a run."""
    third = size.steps // 3
    return Config(
        run=RunConfig(name=folder.name, root=str(folder.parent), steps=size.steps),
        model=ModelConfig(path=str(MODEL), max_context=8 * size.tokens),
        sampling=SamplingConfig(n=size.n, max_tokens=4 * size.tokens),
        buffer=BufferConfig(batch_groups=size.groups, eta=ETA, keep_history=True),
        stages=[StageConfig(name=f"run {i + 1}", steps=size.steps - 2 * third if i == 2 else third) for i in range(3)],
    )


def write_synthetic_run(folder: Path, size: SyntheticSize, *, seed: int = 0) -> RunPaths:
    """Write config.yaml, metrics.jsonl, journal/ and summary.json of a run that has ended."""
    paths, author = RunPaths(folder), Author(size, seed)
    rng = np.random.default_rng(seed)
    save_config(synthetic_config(folder, size), paths.config)
    journal = open_journal(paths.journal, max_gb=64.0, keep_history=True)
    wall_s = 0.0
    scores: list[ValidationScore] = []
    with MetricsWriter(folder, tensorboard=False) as metrics:
        for version in range(size.steps):
            batch = author.batch(version)
            _log(journal, batch)
            scores += batch.validation
            record = batch_metrics(batch)
            record |= _of_learner(version + 1, size, record["rollout/tokens_mean"], rng)
            wall_s += record["learner/step_s"]
            metrics.write(version + 1, record | {"version": float(version + 1), "wall_s": wall_s})
    journal.close()
    write_summary(paths.summary, _summary(scores, size, wall_s))
    return paths


def _log(journal: Journal, batch: Batch) -> None:
    """As the buffer does."""
    for group in batch.groups:
        journal.put_group(group, b"")
    journal.log_batch(batch)
    cursor = PromptCursor(credits=[], drawn=[])
    newest = BufferState(generation=1, version=batch.version, head=batch.version + 1, ledger={}, cursor=cursor)
    journal.commit(newest)


def _summary(scores: list[ValidationScore], size: SyntheticSize, wall_s: float) -> dict:
    ends = {"before": scores[0], "after": scores[-1]} if scores else {}
    sides = {
        side: {"sampled": {"by_task": score.by_task, "mean": score.mean, "version": score.version, "rollouts": 256}}
        for side, score in ends.items()
    }
    trained = size.steps * size.groups
    ledger = {"trained": trained, "filtered": trained // 3, "total": trained + trained // 3}
    return {
        **sides,
        "steps": size.steps,
        "wall_s": wall_s,
        "ledger": ledger,
        "staleness_max": ETA,
        "reference_resets": 5,
        "counters": {"buffer/filtered": trained // 3, "buffer/lost_leases": size.steps // fault_every(size)},
        "time_split": {"learner": {}, "actors": {}},
    }
