"""A tracker keeps the numbers of runs where people look at them together: W&B, trackio, MLflow.

    metrics.jsonl --RecordFollower--> process.py, one for each tracker --Tracker.write--> the service

The file is the queue: a tracker that is slow, down or broken is behind, loses nothing, and cannot hold the learner up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ...common.json_object import JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """The run as a tracker shows it."""

    name: str
    folder: str  # of the run
    config: JsonObject  # every setting
    # what `identity` of an earlier process of this run returned; "" at first
    identity: str
    arguments: Mapping[str, object]  # of the service, as `trackers` gives them


class Tracker(Protocol):
    """One run at one service. Any error may be raised: it ends the process, and another one goes on.

    Example: tracker = open_wandb(run); tracker.write(12, {"learner/step_s": 0.8}); tracker.close()
    """

    @property
    def identity(self) -> str:
        """What finds this run again at the service."""
        ...

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of one step; steps ascend. May return before the service has them."""
        ...

    def close(self) -> None:
        """Send the rest. Blocks until the service has everything."""
        ...


OpenTracker = Callable[[TrackedRun], Tracker]
