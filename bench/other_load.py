"""How many processes of somebody else want a core, on average: a busy machine is slower by what they get."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
EVERY_S = 0.5


class _Process(NamedTuple):
    """What /proc/PID/stat says."""

    pid: int
    state: str
    parent: int
    session: int
    threads: int


def runnable_others(root: int) -> int:
    """How many shares of the scheduler others than the process `root` and its descendants ask for now.

    Linux shares cores among sessions where it groups processes by them (autogroup), else among threads.
    """
    processes = {process.pid: process for process in map(_read, os.listdir("/proc")) if process is not None}
    running = [process for process in processes.values() if not _descends(process.pid, root, processes) and _runs(process)]
    grouped = AUTOGROUP.is_file() and AUTOGROUP.read_text().strip() == "1"
    return len({process.session for process in running}) if grouped else len(running)


def _read(name: str) -> _Process | None:
    if not name.isdigit():
        return None
    try:
        text = Path("/proc", name, "stat").read_text()
    except OSError:
        return None  # it has ended
    rest = text.rpartition(")")[2].split()
    return _Process(int(name), rest[0], int(rest[1]), int(rest[3]), int(rest[17]))


def _runs(process: _Process) -> bool:
    """Whether any of its threads wants a core."""
    if process.state == "R":
        return True
    if process.threads == 1:
        return False
    try:
        texts = [each.read_text() for each in Path("/proc", str(process.pid)).glob("task/*/stat")]
    except OSError:
        return False
    return any(text.rpartition(")")[2].split()[0] == "R" for text in texts)


def _descends(pid: int, root: int, processes: dict[int, _Process]) -> bool:
    while pid in processes:
        if pid == root:
            return True
        pid = processes[pid].parent
    return False


class OtherLoad:
    """Samples the load of others while it is entered. Example: with OtherLoad() as load: ...; load.mean"""

    def __init__(self) -> None:
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> OtherLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def mean(self) -> float:
        """Over all samples so far."""
        return fmean(self._samples) if self._samples else 0.0

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._samples.append(runnable_others(os.getpid()))
