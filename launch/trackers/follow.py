"""Reads the records that are new in metrics.jsonl, whatever happens to the file meanwhile."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...common.metrics import MetricsRecord


class RecordFollower:
    """The records of steps after `last`, each once, in the order of the file.

    A learner that resumes replaces the file by a shorter one and trains some steps again, to the same numbers: these are not
    given a second time.

    Example: follower = RecordFollower(paths.metrics, last=0); for record in follower.take(): ...
    """

    def __init__(self, path: Path, last: int) -> None:
        self.last = last
        self._path = path
        # of the file that was read, and how far
        self._file, self._offset = 0, 0

    def take(self) -> list[MetricsRecord]:
        """What is new; a line that is still being written is left for the next call. Raises: OSError, msgspec.DecodeError."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            number = self._path.stat().st_ino
            if number != self._file:
                self._file, self._offset = number, 0
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        records = [msgspec.json.decode(line, type=MetricsRecord) for line in whole.splitlines()]
        fresh = []
        for record in records:
            if record["step"] > self.last:
                self.last = record["step"]
                fresh.append(record)
        return fresh
