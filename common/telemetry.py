"""Timing spans, and scalars for TensorBoard.

TensorBoard reads TFRecord files of Event protocol buffers. The package's own writer takes 0.25 s to import and looks for
TensorFlow; the format takes five lines, so this module writes it, and the tests read it back with TensorBoard's own reader.
Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details; RFC 3720 appendix B.4 (CRC-32C).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, time
from typing import Any

from .trace import NO_TRACE, Tracer


class Spans:
    """Seconds spent under each name since the last `take`. For any thread; time under nested names counts for both.

    Example: span = Spans(); `with span("learner/step"): ...`; span.take() == {"learner/step_s": 1.25}
    """

    def __init__(self, tracer: Tracer = NO_TRACE) -> None:
        """`tracer` records each span too."""
        self._tracer = tracer
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            ended = perf_counter()
            self.add(name, ended - started)
            self._tracer.add(name, started, ended)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        with self._lock:
            self._seconds[f"{name}_s"] = self._seconds.get(f"{name}_s", 0.0) + seconds

    def take(self) -> dict[str, float]:
        """The seconds since the last call, by name."""
        with self._lock:
            seconds, self._seconds = self._seconds, {}
        return seconds


class EventWriter:
    """Scalars in a TensorBoard folder: one event file per writer, flushed at every step."""

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        # imported here, so that only a process that writes pays for it
        from tensorboard.compat.proto import event_pb2, summary_pb2

        # generated at import: type checkers do not see their contents
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._write(self._event(wall_time=time(), file_version="brain.Event:2"))
        # readers drop the points that a dead run wrote from `first_step` on
        start = events.SessionLog(status=events.SessionLog.START)
        self._write(self._event(wall_time=time(), step=first_step, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point of each curve."""
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(self._event(wall_time=time(), step=step, summary=self._summary(value=scalars)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Any) -> None:
        payload = event.SerializeToString()
        length = struct.pack("<Q", len(payload))
        checks = (struct.pack("<I", _masked_crc32c(part)) for part in (length, payload))
        self._file.write(b"".join((length, next(checks), payload, next(checks))))
        self._file.flush()


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc32c_table()


def _masked_crc32c(payload: bytes) -> int:
    """CRC-32C, rotated right by 15 bits and increased by a constant, as TFRecord demands."""
    crc = 0xFFFFFFFF
    for byte in payload:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
