"""How many processes of somebody else want a core, on average: a busy machine is slower by what they get."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import NamedTuple

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
EVERY_S = 0.5


class HostProcess(NamedTuple):
    """What /proc/PID/stat says."""

    pid: int
    state: str
    parent: int
    session: int
    threads: int


def runnable_others(root: int) -> int:
    """How many shares of the scheduler others than the process `root` and its descendants ask for now."""
    grouped = AUTOGROUP.is_file() and AUTOGROUP.read_text().strip() == "1"
    found = {process.pid: process for process in map(_read, os.listdir("/proc")) if process is not None}
    return count_shares(found, root, grouped=grouped)


def count_shares(processes: dict[int, HostProcess], root: int, *, grouped: bool) -> int:
    """The shares that are asked for by processes that do not descend from `root`.

    Linux shares cores among sessions where it groups processes by them (autogroup), else among threads.
    """
    others = [process for process in processes.values() if not _descends(process.pid, root, processes) and _runs(process)]
    return len({process.session for process in others}) if grouped else len(others)


def _read(name: str) -> HostProcess | None:
    if not name.isdigit():
        return None
    try:
        text = Path("/proc", name, "stat").read_text(errors="replace")
    except OSError:
        return None  # it has ended
    rest = text.rpartition(")")[2].split()
    return HostProcess(int(name), rest[0], int(rest[1]), int(rest[3]), int(rest[17]))


def _runs(process: HostProcess) -> bool:
    """Whether any of its threads wants a core."""
    if process.state == "R":
        return True
    if process.threads == 1:
        return False
    try:
        texts = [each.read_text(errors="replace") for each in Path("/proc", str(process.pid)).glob("task/*/stat")]
    except OSError:
        return False
    return any(text.rpartition(")")[2].split()[0] == "R" for text in texts)


def _descends(pid: int, root: int, processes: dict[int, HostProcess]) -> bool:
    while pid in processes:
        if pid == root:
            return True
        pid = processes[pid].parent
    return False


class OtherLoad:
    """Samples the load of others while it is entered. Example: with OtherLoad() as load: ...; load.mean_of_last(60.0)"""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []  # time, and how many wanted a core
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> OtherLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean_of_last(self, seconds: float) -> float:
        """Over the samples of that time before the last one."""
        latest = self._samples[-1][0] if self._samples else 0.0
        counts = [count for time_s, count in self._samples if time_s >= latest - seconds]
        return fmean(counts) if counts else 0.0

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._samples.append((monotonic(), runnable_others(os.getpid())))
