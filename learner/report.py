"""The learner's reports: one record of metrics per step, and the summary at the end of the run."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from ..common.files import write_atomically
from ..common.json_object import JsonObject
from ..common.messages import Status
from ..common.types import Batch, FinishReason, ValidationScore
from .algorithm.rewards import rewards_of
from .checkpoints.checkpoint import LearnerState

log = logging.getLogger(__name__)

SAID_EVERY_S = 30.0
# the activities that the learner's time is split into
SPENT = ("wait_s", "compute_s", "publish_s", "checkpoint_s")


class ProgressLog:
    """A line in the log for the first step, the last one, and one in SAID_EVERY_S: a learner by itself has no live view."""

    def __init__(self, steps: int) -> None:
        self._steps, self._said_at = steps, -math.inf

    def tell(self, version: int, record: Mapping[str, float], now: float) -> None:
        """Say that a step ended, if it is time. `now`: seconds of a monotonic clock."""
        if now - self._said_at < SAID_EVERY_S and version != self._steps:
            return
        self._said_at = now
        log.info(
            "step %d of %d: mean reward %.2f, %.2f s, of which %.2f s waiting for the batch",
            version,
            self._steps,
            record["reward/mean"],
            record["learner/step_s"],
            record["learner/wait_s"],
        )


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Compute rewards by domain and task and completion lengths; add the scores and metrics that the batch carries."""
    rewards: dict[str, list[float]] = defaultdict(list)
    for group in batch.groups:
        values = rewards_of(group).tolist()
        for name in ("mean", group.prompt.domain, f"{group.prompt.domain}/{group.prompt.task}"):
            rewards[f"reward/{name}"] += values
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    lengths = [rollout.num_tokens for rollout in rollouts]
    metrics = {name: fmean(values) for name, values in rewards.items()}
    metrics |= {
        "rollout/tokens_mean": fmean(lengths),
        "rollout/tokens_max": float(max(lengths)),
        "rollout/count": float(len(lengths)),
        "rollout/truncated": fmean(rollout.finish_reason is FinishReason.length for rollout in rollouts),
    }
    for score in batch.validation:
        metrics |= {f"validation/{score.setting}/{name}": value for name, value in _score_metrics(score).items()}
    return metrics | batch.metrics


def _score_metrics(score: ValidationScore) -> dict[str, float]:
    """Compute the means over all tasks, of each domain and of each task.

    `version` was swept; `oldest_version` is the oldest version that made a token of the sweep.
    """
    domains: dict[str, list[float]] = defaultdict(list)
    for task, value in score.by_task.items():
        domains[task.partition("/")[0]].append(value)
    versions = {"version": float(score.version), "oldest_version": float(min(score.versions, default=score.version))}
    return {"mean": score.mean, **versions, **{name: fmean(values) for name, values in domains.items()}, **score.by_task}


def summarize(state: LearnerState, status: Status) -> JsonObject:
    """Make the content of summary.json: held-out scores before and after, the ledger, and the time split of each side."""
    own = ("busy_s", "idle_s", "weights_s")
    actors = {
        name: {key: value for key, value in peer.items() if key.removeprefix("actor/") in own}
        for name, peer in status.peers.items()
        if peer.get("role") == "actor"
    }
    return {
        "before": _scores(status.validation, first=True),
        "after": _scores(status.validation, first=False),
        "steps": state.version,
        "wall_s": round(state.wall_s, 3),
        "staleness_max": state.staleness_max,
        "ledger": status.ledger,
        "reference_resets": state.reference_epoch,
        "skipped_updates": state.skipped,
        "generation": state.generation,
        "counters": status.counters,
        "time_split": {
            "learner": {name: round(state.spent.get(name, 0.0), 3) for name in SPENT},
            "actors": {
                name: {key.removeprefix("actor/"): value for key, value in split.items()} for name, split in actors.items()
            },
        },
    }


def write_summary(path: Path, summary: JsonObject) -> None:
    """Write summary.json atomically: its existence says that the run has ended."""
    write_atomically(path, json.dumps(summary, indent=2) + "\n")


def _scores(scores: list[ValidationScore], *, first: bool) -> JsonObject:
    """Return by setting the scores of the first or of the last version that has any."""
    if not scores:
        return {}
    versions = [score.version for score in scores]
    version = min(versions) if first else max(versions)
    return {
        score.setting: {"by_task": score.by_task, "mean": score.mean, "version": score.version, "rollouts": score.num_rollouts}
        for score in scores
        if score.version == version
    }
