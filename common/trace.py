"""What a process did and when: spans of time that it appends to RUN/trace/NAME.jsonl, always, for `prolong trace`.

The file is a flight recorder: it holds the last SEGMENT_BYTES to twice as many, and a span costs a few microseconds. Times
are those of the host's monotonic clock, which its processes share; the first line says how it relates to the wall clock, for
hosts to be compared. A disk that fails ends the recording with one line in the log, and never the process.

    {"process": "actor-0", "role": "actor", "host": "gpu-1", "boot": "6f9c...", "pid": 71, "monotonic": 8123.5, "unix": 1767...}
    {"name": "group", "at": 8130.25, "s": 1.75, "args": {"ordinal": 12, ...}}
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from time import monotonic, time

import msgspec

log = logging.getLogger(__name__)

SEGMENT_BYTES = 16 << 20
FOLDER_BYTES = 512 << 20  # of all files in the folder, those of processes that ended before included: the oldest go first
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Fact = int | float | str | Sequence[int | float]


class TraceHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file: whose spans follow, and the same moment on two clocks."""

    process: str
    role: str
    host: str
    boot: str  # processes with the same one share the monotonic clock
    pid: int
    monotonic: float
    unix: float


class TraceSpan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A span of time of one process; of no length: something that happened."""

    name: str
    at: float  # when it began, by the monotonic clock
    s: float = 0.0  # seconds
    args: dict[str, Fact] = {}


class Tracer:
    """Appends the spans of one process. For any thread; without a folder it does nothing."""

    def __init__(self, folder: Path | None = None, role: str = "", process: str = "") -> None:
        """Begin a file of this process in `folder`, which is created."""
        self._head = TraceHead(
            process=process,
            role=role,
            host=socket.gethostname(),
            boot=BOOT_ID.read_text().strip() if folder is not None and BOOT_ID.exists() else "",
            pid=os.getpid(),
            monotonic=monotonic(),
            unix=time(),
        )
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._path: Path | None = None
        self._file: FileIO | None = None
        self._num_bytes = 0
        if folder is not None:
            self._path = folder / f"{trace_name(process)}.{os.getpid()}.jsonl"
            with self._failing():
                folder.mkdir(parents=True, exist_ok=True)
                _make_room(folder)
                self._begin()

    @property
    def on(self) -> bool:
        """Whether anything is recorded: else arguments need not be made."""
        return self._file is not None

    def add(self, name: str, began_s: float, ended_s: float, **args: Fact) -> None:
        """Record a span, from one reading of `time.monotonic` (or `perf_counter`, the same clock on Linux) to another."""
        if self._file is None:
            return
        line = self._encoder.encode(TraceSpan(name=name, at=began_s, s=ended_s - began_s, args=args)) + b"\n"
        with self._lock, self._failing():
            self._write(line)

    @contextmanager
    def span(self, name: str, **args: Fact) -> Iterator[None]:
        """Record the time that the block takes, however it ends."""
        began_s = monotonic()
        try:
            yield
        finally:
            self.add(name, began_s, monotonic(), **args)

    def close(self) -> None:
        """Write what is left. May be called twice."""
        with self._lock, self._failing():
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        if self._num_bytes + len(line) > SEGMENT_BYTES:
            self._file.close()
            self._begin()
        self._file.write(line)
        self._num_bytes += len(line)

    def _begin(self) -> None:
        assert self._path is not None
        # a full one, or that of the life before: in a container every one is process 1
        if self._path.exists():
            self._path.replace(self._path.with_suffix(".before.jsonl"))
        # without a buffer: a process that is killed loses nothing, and one that forks leaves no second copy
        self._file = self._path.open("wb", buffering=0)
        self._num_bytes = self._file.write(self._encoder.encode(self._head) + b"\n")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """End the recording when the disk does not take it."""
        try:
            yield
        except OSError as error:
            log.warning("no more spans are recorded (%s): `prolong trace` will not show what %s does now", error, self._path)
            file, self._file = self._file, None
            if file is not None:
                with suppress(OSError):
                    file.close()


NO_TRACE = Tracer()


@contextmanager
def open_trace(folder: Path, role: str, process: str) -> Iterator[Tracer]:
    """A tracer for as long as the block runs."""
    tracer = Tracer(folder, role, process)
    try:
        yield tracer
    finally:
        tracer.close()


def trace_name(process: str) -> str:
    """A name of a process as that of a file."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in process)
    # a file's name is limited in bytes, of which a letter may take four
    return plain.encode()[:100].decode(errors="ignore")


def _make_room(folder: Path) -> None:
    """Remove the oldest files of a folder that has grown too large: with actors that come and go there is no end of them."""
    files: list[tuple[float, int, Path]] = []
    for path in folder.glob("*.jsonl"):
        # processes that start at once make room at once
        with suppress(FileNotFoundError):
            known = path.stat()
            files.append((known.st_mtime, known.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= FOLDER_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size
