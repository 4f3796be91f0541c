"""Processes of tests that are forked from a server which has imported torch and the learner: they start in milliseconds.

The server is one single-threaded process of multiprocessing per test process, started by its first fork. A fork inherits the
environment that the server started with, and no handle of the test but those it is given.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# read by OpenMP when torch is imported, in the server
os.environ.setdefault("OMP_NUM_THREADS", "1")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "prolong.actor.weight_download", "prolong.buffer.client.client", "prolong.learner.main", "tests.support.batches"]
)


class Fork:
    """One forked process; what it writes goes to `log`. It can be waited for and killed as a `subprocess.Popen` can."""

    def __init__(self, target: Callable[..., None], *args: object, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._process = CONTEXT.Process(target=_run, args=(target, args, str(log), env or {}), daemon=True)

    def start(self) -> Fork:
        self._process.start()
        return self

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it lives; -N when signal N killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout, stderr=self.log.read_bytes())
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[None, str]:
        """(nothing, what it wrote), once it has ended."""
        self.wait(timeout)
        return None, self.log.read_text()

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
            self.wait(10)


def _run(target: Callable[..., None], args: tuple[object, ...], log: str, env: dict[str, str]) -> None:
    """Entry of a fork."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(env)
    try:
        target(*args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
