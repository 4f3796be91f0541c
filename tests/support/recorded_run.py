"""A staged run of a tiny model on recorded random batches: its configuration, and its history as a journal on disk."""

from __future__ import annotations

import select
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prolong.buffer.journal.journal import open_journal, read_journal
from prolong.buffer.journal.records import BufferState, PromptCursor
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.types import Batch, FinishReason, Group, Rollout, ValidationScore, ValidationSetting, VersionSpan
from prolong.launch.replay.rerun import learner_process, running

from tests.support.batches import random_batch, small_config
from tests.support.tiny_model import make_tiny_model

LAST_RATE = {"lr": 3e-4, "lr_schedule": {"kind": "cosine", "warmup": 3}}
SWEEP = 4  # versions between validation sweeps, and between checkpoints: any version with a score may be the best one


def staged_config(model: Path, root: Path, *, steps: int) -> Config:
    """Resets every seven steps, at a stage's begin and by hand, AdamW anew or not; one stage goes back to the best.

    In the last stage the reference is an average.
    """
    cfg = small_config(model)
    cfg.run.root, cfg.run.steps, cfg.model.max_context = str(root), steps, 64
    cfg.checkpoint.every, cfg.checkpoint.keep = SWEEP, 2
    cfg.validation.every = SWEEP
    cfg.learner.minibatches, cfg.learner.grad_clip, cfg.learner.lr_schedule = 3, 1.0, {"warmup": 3}
    cfg.sampling.n, cfg.sampling.max_tokens, cfg.buffer.eta = 4, 20, 2
    cfg.objective.entropy_target, cfg.objective.entropy_rate = 4.0, 1e-3
    cfg.rewards.cosine_on, cfg.rewards.cosine_off = 3, 5
    cfg.reference.reset_every = 7
    cfg.stages = [
        StageConfig(name="short", steps=steps // 4, rewards={"truncated": 0.0}),
        StageConfig(name="back", steps=steps // 2, reset=True, reference={"source": "best", "reset_every": 9}),
        StageConfig(name="long", reset=True, learner=LAST_RATE, reference={"reset_optimizer": False, "ema": 0.9}),
    ]
    return cfg


def recorded_batch(version: int) -> Batch:
    """Drawn from a seed that is the version: groups up to two versions old, truncated rollouts, some sweeps' scores."""
    batch = random_batch(version)
    changes: dict[str, Any] = {"groups": [_aged(group, max(0, version - i % 3)) for i, group in enumerate(batch.groups)]}
    swept = version - 2
    if swept >= 0 and swept % SWEEP == 0:
        mean = float(np.random.default_rng(swept).random())
        score = ValidationScore(
            version=swept,
            versions=[swept],
            setting=ValidationSetting.sampled,
            by_task={"math/sum": mean},
            mean=mean,
            num_rollouts=8,
        )
        changes["validation"] = [score]
    return msgspec.structs.replace(batch, reset_requested=version == 10, **changes)


def _aged(group: Group, version: int) -> Group:
    """Sampled by `version`; its longest rollout ran out of tokens."""
    longest = max(rollout.num_tokens for rollout in group.rollouts)

    def aged(rollout: Rollout) -> Rollout:
        end = FinishReason.length if rollout.num_tokens == longest else FinishReason.stop
        span = VersionSpan(version=version, start=0, end=rollout.num_tokens)
        return msgspec.structs.replace(rollout, spans=[span], finish_reason=end)

    return msgspec.structs.replace(group, rollouts=[aged(rollout) for rollout in group.rollouts])


def recorded_steps_config(folder: Path) -> Config:
    """A run in `folder` of four steps, which are recorded; nothing is saved before the last."""
    cfg = small_config(make_tiny_model(folder / "model", tied=True))
    cfg.run.root, cfg.run.steps, cfg.model.max_context = str(folder), 4, 64
    cfg.checkpoint.every, cfg.checkpoint.keep = 100, 9
    cfg.sampling.n, cfg.sampling.max_tokens = 4, 20
    record_history(run_paths(cfg).journal, [random_batch(version) for version in range(4)])
    return cfg


def record_history(folder: Path, batches: list[Batch]) -> None:
    """Log the batches as the buffer does."""
    journal = open_journal(folder, max_gb=1.0, keep_history=True)
    for batch in batches:
        for group in batch.groups:
            journal.put_group(group, b"")
        journal.log_batch(batch)
        cursor = PromptCursor(credits=[], drawn=[])
        journal.commit(
            BufferState(generation=batch.generation, version=batch.version, head=batch.version + 1, ledger={}, cursor=cursor)
        )
    journal.close()


def learn_from_history(cfg: Config, batches: list[Batch]) -> RunPaths:
    """A run's folder after its end, made by the real learner in processes of its own, as many as the run has ranks."""
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    record_history(paths.journal, batches)
    process = learner_process(cfg, paths, len(batches))
    with running(process) as ending:
        select.select([ending], [], [], 280)
        code = process.reap()
    assert code == 0, process.tail(30)
    return paths


def rewrite_history(folder: Path, change: Callable[[Batch], Batch | None]) -> None:
    """The same history with other batches, or without some of them (None)."""
    with closing(read_journal(folder)) as journal:
        batches = [journal.batch(version) for version in journal.versions()]
    shutil.rmtree(folder)
    changed = [change(batch) for batch in batches if batch is not None]
    record_history(folder, [batch for batch in changed if batch is not None])


def with_reward(batch: Batch, reward: float, *, group: int = 0, rollout: int = 0) -> Batch:
    """The batch with another reward of one rollout."""
    groups = list(batch.groups)
    rollouts = list(groups[group].rollouts)
    verdict = msgspec.structs.replace(rollouts[rollout].verdict, reward=reward)
    rollouts[rollout] = msgspec.structs.replace(rollouts[rollout], verdict=verdict)
    groups[group] = msgspec.structs.replace(groups[group], rollouts=rollouts)
    return msgspec.structs.replace(batch, groups=groups)
