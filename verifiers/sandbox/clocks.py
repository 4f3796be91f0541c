"""The clocks of a program that runs, read from outside: its CPU time, and the time in which it waited for a processor.

    launcher --pidfd--> host pid --/proc/PID/task/*/schedstat--> Clocks

A busy machine lets a right program wait. That time is told apart from sleep here, so that only the program's own time counts.
Where the kernel does not tell (no /proc, no scheduler statistics), `readable` is False and no time is forgiven.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

CPUCLOCK_SCHED = 2  # of clock_getcpuclockid(3): the CPU time of all threads of a process


class Clocks:
    """The clocks of one program and of the processes that it started. Both only grow.

    cpu_s: CPU time of the program itself. waited_s: time in which one of its threads was ready and had no processor.
    """

    def __init__(self, pid: int) -> None:
        """pid: as this process sees it; 0 if that is not known."""
        self._pid = pid if readable() else 0
        self._seen = dict[str, int]()
        self.cpu_s = self.waited_s = 0.0

    def read(self) -> None:
        """Bring the figures up to date. Those of a program that has ended stay as they are."""
        if not self._pid:
            return
        try:
            self.cpu_s = time.clock_gettime((~self._pid << 3) | CPUCLOCK_SCHED)
        except OSError:
            return
        waited = 0
        for pid in _family(self._pid):
            for task, wait in _waits(pid):
                waited = max(waited, wait - self._seen.get(task, 0))
                self._seen[task] = wait
        # threads wait side by side, so the longest wait is the time that was lost
        self.waited_s += waited / 1e9


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        try:
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_bytes().split())
        except OSError:
            continue
    return found


def _waits(pid: int) -> list[tuple[str, int]]:
    """(thread, nanoseconds that it waited for a processor) of a process."""
    found = []
    folder = f"/proc/{pid}/task"
    try:
        for task in os.listdir(folder):
            found.append((task, int(Path(f"{folder}/{task}/schedstat").read_bytes().split()[1])))
    except (OSError, IndexError, ValueError):
        pass
    return found


@functools.cache
def readable() -> bool:
    """Whether this machine tells these clocks."""
    try:
        return bool(_waits(os.getpid())) and time.clock_gettime((~os.getpid() << 3) | CPUCLOCK_SCHED) >= 0
    except OSError:
        return False


def pid_of(pidfd: int) -> int:
    """The pid, as this process sees it, behind a descriptor of a process; 0 if that cannot be told."""
    try:
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    except OSError:
        return 0
    return max(0, next((int(line.split()[1]) for line in lines if line.startswith("Pid:")), 0))


class ProcessorWait:
    """The time in which the first thread of a process waited for a processor, read cheaply again and again."""

    def __init__(self, pid: int) -> None:
        try:
            self._file = os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def read_s(self) -> float:
        """The seconds so far; 0 where that cannot be told."""
        try:
            return int(os.pread(self._file, 100, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
