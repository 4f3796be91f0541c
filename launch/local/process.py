"""A child process with a session and a log of its own, which never outlives the process that started it.

The kernel reports both ends: PR_SET_PDEATHSIG that of the parent, a pidfd that of the child.
Linux only, as vLLM's CPU and GPU builds are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...common.signals import die_with_parent

TAIL_BYTES = 64 * 1024  # of a log that are looked at


class ChildProcess:
    """A command that can be started again. `cores`: the set that it is pinned to; empty: all of them.

    `held`: the command takes the end of its standard input, in place of SIGTERM, for the request to leave.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cores: frozenset[int] = frozenset(),
        held: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.log = log
        self.cores = cores
        self.held = held
        self.starts = 0
        # where the log of the last start begins
        self._log_start = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> int:
        """Start (again), appending to the log. Returns a pidfd, readable once the process has ended; the caller closes it."""
        assert not self.running
        parent = os.getpid()

        def in_child() -> None:
            die_with_parent(signal.SIGTERM, parent)
            if self.cores:
                os.sched_setaffinity(0, self.cores)

        with self.log.open("ab") as sink:
            self._log_start = sink.seek(0, os.SEEK_END)
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE if self.held else subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
                preexec_fn=in_child,
            )
        self.starts += 1
        return os.pidfd_open(self._child.pid)

    def reap(self) -> int:
        """The exit code of the ended process, 128 + n for signal n. Kills the processes that it left in its group."""
        assert self._child is not None
        code = self._child.wait(timeout=5.0)
        if self._child.stdin is not None:
            self._child.stdin.close()
        self.kill_group()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Ask the process to leave, by SIGTERM if it is not held; it ends its children itself."""
        if self._child is None or self._child.poll() is not None:
            return
        if self._child.stdin is not None:
            self._child.stdin.close()
        else:
            self._child.terminate()

    def kill_group(self) -> None:
        """Send SIGKILL to the process and to its children that kept its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines of the log; empty without a log."""
        return self._last_lines(0)[-lines:]

    def last_output(self) -> list[str]:
        """The lines that the last start wrote, of the last TAIL_BYTES."""
        return self._last_lines(self._log_start)

    def _last_lines(self, start: int) -> list[str]:
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()
        return []
