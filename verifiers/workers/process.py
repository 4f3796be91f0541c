"""One worker process as its pool sees it: a socket, the jobs it holds in order, and the clock of the first."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from ..api import Frames, FromWorker, Job, Loading, Ready, frame

J = TypeVar("J")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}


class WorkerProcess(Generic[J]):
    """Starts at construction. Calls `on_message(self, message)` for every frame but Loading.

    At its death it calls `on_end(self, why, blameless)`, once; never after `end()`.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        options: tuple[str, ...],  # of worker.py's command line, behind the descriptor
        timeout_s: float,
        start_timeout_s: float,
        on_message: Callable[[WorkerProcess[J], Any], None],
        on_end: Callable[[WorkerProcess[J], str, bool], None],
    ) -> None:
        self.jobs: deque[J] = deque()  # sent and unanswered; the worker is at the first
        self.reserved: list[J] = []  # for this worker alone, once it is ready
        self.ready = self.was_ready = self.retiring = False  # `ready` is False while it imports
        self.num_done = 0
        self.last_words = ""
        self._loop, self._timeout_s, self._start_timeout_s = loop, timeout_s, start_timeout_s
        self._on_message, self._on_end = on_message, on_end
        self._frames, self._decoder = Frames(), msgspec.msgpack.Decoder(FromWorker)
        self._out = bytearray()
        self._since = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._process = self._start(options)
        self._arm()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-m", "prolong.verifiers.workers.worker", str(theirs.fileno()), *options]
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._readable)
        return process

    def give(self, held: J, job: Job) -> None:
        """Queue a job for the worker; `flush` sends."""
        if not self.jobs:
            self._since = self._loop.time()
        self.jobs.append(held)
        self._out += frame(job)

    def flush(self) -> None:
        """Send what was given, as far as the socket takes it; the event loop sends the rest."""
        if self.jobs and self._timer is None:
            self._arm()
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self.flush)
            return
        except OSError:  # it died: the reader sees the end of the stream and says so
            self._out.clear()
        self._loop.remove_writer(self._socket)

    def end(self) -> None:
        """Kill it and let go of everything; `on_end` is not called."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)

    def _arm(self) -> None:
        limit_s = self._timeout_s if self.ready else self._start_timeout_s
        self._timer = self._loop.call_at(self._since + limit_s, self._check_clock)

    def _check_clock(self) -> None:
        """One timer per worker, set again while the clock of the first job has been restarted since."""
        self._timer = None
        limit_s = self._timeout_s if self.ready else self._start_timeout_s
        if self.ready and not self.jobs:
            return
        if self._loop.time() - self._since < limit_s:
            self._arm()
            return
        self.end()
        self._on_end(self, "timeout" if self.ready else f"no sign of life for {limit_s:.0f} s", False)

    def _readable(self) -> None:
        try:
            chunk = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self._ended()
            return
        self._since = self._loop.time()
        for payload in self._frames.feed(chunk):
            message = self._decoder.decode(payload)
            if isinstance(message, Loading):
                self.ready = False
                continue
            if isinstance(message, Ready):
                self.ready = self.was_ready = True
                self._rearm()
            self._on_message(self, message)

    def _rearm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._arm()

    def _ended(self) -> None:
        """The stream ended: it died by itself, or somebody killed it."""
        self.end()
        code = self._process.returncode
        blameless = code in (-signal.SIGKILL, -signal.SIGTERM) and not self.last_words
        self._on_end(self, self.last_words or f"exit code {code}", blameless)
