"""The metrics of a run: one record per learner step, in metrics.jsonl and in TensorBoard. Dashboards read the file.

Record: {"step": 12, "learner/step_s": 0.8, ...}; names are `group/name` with the unit. A number that is not finite,
or HUGE, is null.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import msgspec

from .errors import UserError
from .files import write_atomically
from .telemetry import EventWriter

MetricsRecord = dict[str, Any]  # "step": int, "group/name": float | None
StepNumbers = dict[str, float]  # such a record without its nulls
HUGE = 1e100  # sums and squares of numbers below it are finite
log = logging.getLogger(__name__)
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


class _Line(NamedTuple):
    """A line of metrics.jsonl."""

    number: int  # from 1
    record: MetricsRecord
    fault: str  # why it is not a record; empty: it is one
    may_be_torn: bool = False  # it is not a whole object


def _lines(lines: Iterable[bytes], first: int = 1) -> Iterator[_Line]:
    for number, line in enumerate(lines, start=first):
        try:
            record = _RECORDS.decode(line)
        except msgspec.DecodeError as error:
            yield _Line(number, {}, f"{error}; expected one JSON object of numbers a line", may_be_torn=True)
            continue
        step = record.get("step")
        yield _Line(number, record, "" if isinstance(step, int) else f"step is {step!r}, expected a whole number")


def _left_out(path: Path, broken: Sequence[_Line]) -> str:
    """What a reader says of lines that it leaves out."""
    first, more = broken[0], f" with {len(broken) - 1} more" if len(broken) > 1 else ""
    return f"{path}, line {first.number}: {first.fault}. It is left out{more}; the disk may be at fault"


def read_metrics(path: Path, *, exact: bool = True) -> list[MetricsRecord]:
    """All complete records, in order of writing, without a last line that is still being written or was torn by a crash.

    exact: raises UserError naming file and line for a broken line that is not the last. Otherwise, for those who show what
    there is, it is left out with a warning.
    """
    lines = list(_lines(path.read_bytes().splitlines()))
    if lines and lines[-1].may_be_torn:
        lines.pop()
    broken = [line for line in lines if line.fault]
    if broken and exact:
        raise UserError(f"{path}, line {broken[0].number}: {broken[0].fault}")
    if broken:
        log.warning("%s", _left_out(path, broken))
    return [line.record for line in lines if not line.fault]


class MetricsTail:
    """Reads new complete records of a growing metrics.jsonl. Starts over when a resumed run has replaced the file.

    num_broken: whole lines of the file so far that are not records, and are left out.
    """

    def __init__(self, path: Path, *, exact: bool = False, tell: Callable[[str], None] = log.warning) -> None:
        """exact: a broken line is an error. tell: called once, with the first broken lines."""
        self._path, self._exact, self._tell = path, exact, tell
        self._offset = self._num_lines = self.num_broken = 0
        self._inode = 0
        self._told = False

    def read(self) -> tuple[list[StepNumbers], bool]:
        """Records since the last call, and whether they replace all earlier ones. Raises: OSError; UserError if `exact`."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return [], False
        with file:
            # the size does not tell: the steps that were done again may be more than those before
            inode = os.fstat(file.fileno()).st_ino
            restarted = self._inode not in (0, inode)
            if restarted:
                self._offset = self._num_lines = self.num_broken = 0
            self._inode = inode
            file.seek(self._offset)
            chunk = file.read()
        complete = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(complete)
        records = self._records(complete.splitlines())
        return [{key: value for key, value in record.items() if value is not None} for record in records], restarted

    def _records(self, complete: list[bytes]) -> list[MetricsRecord]:
        lines = list(_lines(complete, self._num_lines + 1))
        self._num_lines += len(lines)
        broken = [line for line in lines if line.fault]
        self.num_broken += len(broken)
        if broken and self._exact:
            raise UserError(f"{self._path}, line {broken[0].number}: {broken[0].fault}")
        if broken and not self._told:
            self._told = True
            self._tell(_left_out(self._path, broken))
        return [line.record for line in lines if not line.fault]


def _plain(value: SupportsFloat) -> int | float:
    """A plain number for `value`, which may be a scalar of NumPy or torch."""
    return value if isinstance(value, int) else float(value)


def _keep(path: Path, last_step: int) -> None:
    """Rewrite the file atomically, with the records of steps up to `last_step`."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= last_step]
    write_atomically(path, b"".join(msgspec.json.encode(record) + b"\n" for record in kept), durable=True)
