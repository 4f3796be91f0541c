"""One supervised process: its own session, its own log, never outliving the supervisor.

The kernel is asked for every event: PR_SET_PDEATHSIG for the supervisor's death, a pidfd for the child's.
Linux only, as vLLM's CPU and GPU builds are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Have the kernel send `signum` to this process when the thread that started it ends.

    `parent`: the pid that is expected; when it is already gone by now, this process ends itself.
    """
    if _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


class Process:
    """A command that can be started again. `cores` is the set it is pinned to; empty: it floats."""

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], log: Path, cores: frozenset[int] = frozenset()
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.log = log
        self.cores = cores
        self.starts = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> int:
        """Start (again), appending to the log; returns a pidfd, readable when it has ended, for the caller to close."""
        assert not self.running
        supervisor = os.getpid()

        def in_child() -> None:
            die_with_parent(signal.SIGTERM, supervisor)
            if self.cores:
                os.sched_setaffinity(0, self.cores)

        with self.log.open("ab") as sink:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
                preexec_fn=in_child,
            )
        self.starts += 1
        return os.pidfd_open(self._child.pid)

    def reap(self) -> int:
        """The exit code of an ended process, 128 + n for signal n. What it left in its group is killed."""
        assert self._child is not None
        code = self._child.wait(timeout=5.0)
        self.kill_group()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the process (not its children: it ends those itself) to leave."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def kill_group(self) -> None:
        """SIGKILL to the process and all that it started, as far as they kept its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def tail(self, lines: int = 15) -> list[str]:
        """The log's last lines."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 64 * 1024))
            return log.read().decode(errors="replace").splitlines()[-lines:]
        return []
