"""Reads the records that a tracker does not have yet, whatever happens to metrics.jsonl meanwhile."""

from __future__ import annotations

from pathlib import Path

from ...common.metrics import MetricsTail, StepNumbers


class RecordFollower:
    """The records of steps after `last`, each once, in the order of the file.

    A learner that resumes replaces the file by a shorter one and trains some steps again, to the same numbers: these are not
    given a second time.

    Example: follower = RecordFollower(paths.metrics, last=0); for record in follower.take(): ...
    """

    def __init__(self, path: Path, last: int) -> None:
        self.last = last
        self._tail = MetricsTail(path)

    def take(self) -> list[StepNumbers]:
        """What is new; a line that is still being written is left for the next call. Raises: as `MetricsTail.read`."""
        fresh = []
        for record in self._tail.read()[0]:
            if record["step"] > self.last:
                self.last = int(record["step"])
                fresh.append(record)
        return fresh
