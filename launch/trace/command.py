"""`prolong trace RUN ...`: write what all processes of a run did as one file for Perfetto."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...common.config.run_files import RunPaths
from ...common.errors import UserError
from ...common.files import write_atomically
from ..status import find_run
from .chrome import chrome_trace
from .recorded import read_traces


def write_trace(runs: Sequence[str], out: Path | None, last_s: float) -> int:
    """Write the trace, by default to RUN/trace.json. `runs`: the folders of one run, of several hosts. Raises: UserError."""
    folders = [trace_folder(name) for name in runs]
    found = read_traces(folders)
    if not any(trace.spans for trace in found.processes):
        raise UserError(f"{', '.join(map(str, folders))}: no spans are recorded there; every process of a run writes some")
    path = out or folders[0].parent / "trace.json"
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; create it, or name another file")
    trace = chrome_trace(found.processes, last_s)
    num_slices = sum(event["ph"] == "X" for event in trace["traceEvents"])
    # times too large for a number are null, which a viewer skips
    content = msgspec.json.encode(trace)
    write_atomically(path, gzip.compress(content, 6) if path.suffix == ".gz" else content)
    broken = f", {found.num_broken} broken lines left out" if found.num_broken else ""
    sys.stdout.write(
        f"{path}: {num_slices:,} slices of {len(found.processes)} processes, {path.stat().st_size / 1e6:.1f} MB{broken}\n"
        "open it at https://ui.perfetto.dev (it stays in the browser) or in chrome://tracing\n"
    )
    return 0


def trace_folder(name: str) -> Path:
    """The trace of a run by name or folder, or a folder that was copied from another host. Raises: UserError."""
    folder = Path(name)
    if any(folder.glob("*.jsonl")) and folder.name == "trace":
        return folder
    copied = RunPaths(folder).trace
    return copied if copied.is_dir() else find_run(name).trace
