"""The metrics of a run: one record per learner step, in metrics.jsonl and in TensorBoard. Dashboards read the file.

Record: {"step": 12, "learner/step_s": 0.8, ...}; names are `group/name` with the unit. A number that is not finite,
or HUGE, is null.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import msgspec

from .errors import UserError
from .files import write_atomically
from .telemetry import EventWriter

MetricsRecord = dict[str, Any]  # "step": int, "group/name": float | None
StepNumbers = dict[str, float]  # such a record without its nulls
HUGE = 1e100  # sums and squares of numbers below it are finite
_RECORDS = msgspec.json.Decoder(dict[str, bool | int | float | None])


class MetricsWriter:
    """Writes `folder`/metrics.jsonl and `folder`/tensorboard/. Only one process may have one: the learner's rank 0."""

    def __init__(self, folder: Path, *, resume_step: int = 0, tensorboard: bool = True) -> None:
        """Keep the records up to `resume_step`; later ones are of steps that will be trained again."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        _keep(path, resume_step)
        self._file = path.open("ab")
        self._events = EventWriter(folder / "tensorboard", first_step=resume_step + 1) if tensorboard else None

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append one record; other processes can read it when this returns."""
        numbers = {name: _plain(value) for name, value in values.items()}
        record = {"step": step, **{name: value if abs(value) < HUGE else None for name, value in numbers.items()}}
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        if self._events is not None:
            self._events.write(step, numbers)

    def close(self) -> None:
        """Make the file durable and release it."""
        os.fsync(self._file.fileno())
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[MetricsRecord]:
    """All complete records, in order of writing, without a last line that is still being written or was torn by a crash.

    Raises: UserError naming file and line for a broken line that is not the last.
    """
    lines = path.read_bytes().splitlines()
    records: list[MetricsRecord] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = _RECORDS.decode(line)
        except msgspec.DecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: {error}; expected one JSON object of numbers a line") from error
        if not isinstance(record.get("step"), int):
            raise UserError(f"{path}, line {number}: step is {record.get('step')!r}, expected a whole number")
        records.append(record)
    return records


class MetricsTail:
    """Reads new complete records of a growing metrics.jsonl. Starts over when a resumed run has replaced the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0

    def read(self) -> tuple[list[StepNumbers], bool]:
        """Records since the last call, and whether they replace all earlier ones. Raises: OSError, msgspec.DecodeError."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return [], False
        with file:
            # the size does not tell: the steps that were done again may be more than those before
            inode = os.fstat(file.fileno()).st_ino
            restarted = self._inode not in (0, inode)
            self._offset, self._inode = 0 if restarted else self._offset, inode
            file.seek(self._offset)
            chunk = file.read()
        complete = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(complete)
        records = [_RECORDS.decode(line) for line in complete.splitlines() if line.strip()]
        return [{key: value for key, value in record.items() if value is not None} for record in records], restarted


def _plain(value: SupportsFloat) -> int | float:
    """A plain number for `value`, which may be a scalar of NumPy or torch."""
    return value if isinstance(value, int) else float(value)


def _keep(path: Path, last_step: int) -> None:
    """Rewrite the file atomically, with the records of steps up to `last_step`."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= last_step]
    write_atomically(path, b"".join(msgspec.json.encode(record) + b"\n" for record in kept), durable=True)
