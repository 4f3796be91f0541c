"""A share of one core for a process and its descendants, so that one machine has a fast actor and a slow one.

`quota` takes the first of these that this machine allows, and says which it was:

    cgroup v2     cpu.max in a group of its own
    cgroup v1     cpu.cfs_quota_us in a group of its own
    signals       SIGSTOP and SIGCONT by turns, from a thread: no rights are needed, and pauses are coarse
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

PERIOD_US = 100_000
CGROUPS = Path("/sys/fs/cgroup")
GONE_S = 5.0  # how long a group is kept for processes that end


@contextlib.contextmanager
def quota(pid: int, share: float, cgroups: Path = CGROUPS) -> Iterator[str]:
    """Give a process and its descendants `share` of one core's time while the context lasts. Yields how."""
    group = _make_group(share, cgroups, f"prolong-bench-{pid}")
    if group is None:
        stopped = threading.Event()
        turns = threading.Thread(target=_take_turns, args=(pid, share, stopped), daemon=True)
        turns.start()
        try:
            yield "SIGSTOP and SIGCONT by turns"
        finally:
            stopped.set()
            turns.join()
        return
    folder, how = group
    try:
        _enter(folder, pid)
        yield how
    finally:
        _remove(folder)


def _make_group(share: float, cgroups: Path, name: str) -> tuple[Path, str] | None:
    """The folder of a new group with this quota, and what kind it is; None where there can be none."""
    limit = int(share * PERIOD_US)
    kinds = (
        (cgroups / name, "cpu.max", f"{limit} {PERIOD_US}", "cgroup v2, cpu.max"),
        (cgroups / "cpu" / name, "cpu.cfs_quota_us", str(limit), "cgroup v1, cpu.cfs_quota_us"),
    )
    for folder, file, text, how in kinds:
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            # without the controller there is no such file, and none may be made
            with (folder / file).open("r+") as setting:
                setting.write(text)
        except OSError:
            folder.rmdir()
            continue
        return folder, how
    return None


def _tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _enter(folder: Path, pid: int) -> None:
    """Move the process and its descendants; those that are started later follow their parents."""
    for member in _tree(pid):
        with contextlib.suppress(ProcessLookupError):
            (folder / "cgroup.procs").write_text(str(member))


def _remove(folder: Path) -> None:
    """Give those that live back to the group above, and remove the group."""
    for member in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (folder.parent / "cgroup.procs").write_text(member)
    waited, step = threading.Event(), 0.05
    for _ in range(int(GONE_S / step)):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        waited.wait(step)


def _take_turns(pid: int, share: float, stopped: threading.Event) -> None:
    """Let the processes run for `share` of every period. They run when it ends."""
    period_s = PERIOD_US / 1e6
    while not stopped.is_set():
        _signal(pid, signal.SIGSTOP)
        stopped.wait((1.0 - share) * period_s)
        _signal(pid, signal.SIGCONT)
        stopped.wait(share * period_s)


def _signal(pid: int, number: signal.Signals) -> None:
    for member in _tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


def pin(pid: int, cores: set[int]) -> None:
    """Let every thread of a process and of its descendants run on these cores alone."""
    for member in _tree(pid):
        for thread in Path(f"/proc/{member}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)
