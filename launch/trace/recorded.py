"""The spans in the trace folders of a run: one `ProcessTrace` for each life of a process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...common.trace import TraceHead, TraceSpan


@dataclass(frozen=True, slots=True)
class ProcessTrace:
    """What one process recorded, in the order in which its spans ended."""

    head: TraceHead
    spans: list[TraceSpan]

    def named(self, name: str) -> list[TraceSpan]:
        return [span for span in self.spans if span.name == name]


@dataclass(slots=True)
class ReadTraces:
    """All that was found."""

    processes: list[ProcessTrace]
    num_broken: int = 0  # lines that do not decode; the last of a file may be half written


def read_traces(folders: Iterable[Path]) -> ReadTraces:
    """Read every file of these folders: of a process that went on in a second file, both together."""
    found = ReadTraces([])
    lives: dict[tuple[str, str, int], ProcessTrace] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.jsonl")):
        trace, num_broken = _read_file(path)
        found.num_broken += num_broken
        if trace is None:
            continue
        life = (trace.head.boot or trace.head.host, trace.head.process, trace.head.pid)
        if life in lives:
            lives[life].spans.extend(trace.spans)
        else:
            lives[life] = trace
    for trace in lives.values():
        trace.spans.sort(key=lambda span: span.at + span.s)
    # in the order of starting; the processes of a run start at once, so then by name
    found.processes = sorted(
        lives.values(), key=lambda trace: (_RANK.get(trace.head.role, 9), trace.head.process, trace.head.unix)
    )
    return found


_RANK = {"learner": 0, "buffer": 1, "relay": 2, "actor": 3}


def _read_file(path: Path) -> tuple[ProcessTrace | None, int]:
    """The content of a file, None without a head; and how many lines are broken."""
    lines = path.read_bytes().splitlines()
    try:
        head = msgspec.json.decode(lines[0], type=TraceHead) if lines else None
    except msgspec.MsgspecError:
        head = None
    if head is None:
        return None, len(lines)
    spans: list[TraceSpan] = []
    decoder, num_broken = msgspec.json.Decoder(TraceSpan), 0
    for line in lines[1:]:
        try:
            spans.append(decoder.decode(line))
        except msgspec.MsgspecError:
            num_broken += 1
    return ProcessTrace(head, spans), num_broken
