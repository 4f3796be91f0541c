"""One worker process as its pool sees it: a socket, the jobs it holds in order, and the clock of the first one.

The clock does not count the time in which the worker waits for a processor: a busy machine is nobody's fault.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from ..sandbox.clocks import ProcessorWait
from .frames import (
    OUT_OF_MEMORY,
    FrameReader,
    FromWorker,
    Job,
    Loading,
    Probed,
    Ready,
    Scored,
    StillRunning,
    Unusable,
    to_frame,
)

J = TypeVar("J")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}
RECEIVE_BYTES = 1 << 18
END_TIMEOUT_S = 10.0
MOST_WAIT = 20  # no deadline is stretched further than so many times


class WorkerState(StrEnum):
    """The present activity of a worker process."""

    starting = "starting"  # not ready yet; it may hold a job for its first moment
    ready = "ready"  # judging, or waiting for a job
    loading = "loading"  # importing something for the job in hand, whose clock stands still


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerEnd:
    """How a worker ended."""

    why: str  # "timeout", "memory", "exit code N", ...
    killed_from_outside: bool  # by a signal that neither the pool nor the job can have sent


class WorkerProcess(Generic[J]):
    """A worker process and the jobs that it holds; made by `start`. J: the pool's record of a job.

    jobs: sent and unanswered, in order; the worker is at the first. A job may be given before the worker is ready.
    accepts_jobs: False once it is retiring; it finishes the jobs that it holds. num_done: jobs that it answered.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: socket.socket,
        *,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        start_timeout_s: float,
        on_message: Callable[[WorkerProcess[J], Ready | Probed | Scored | Unusable], None],
        on_end: Callable[[WorkerProcess[J], WorkerEnd], None],
    ) -> None:
        self.jobs: deque[J] = deque()
        self.state = WorkerState.starting
        self.accepts_jobs = True
        self.num_done = 0
        self._process, self._socket, self._loop = process, channel, loop
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._on_message, self._on_end = on_message, on_end
        self._frames, self._decoder = FrameReader(), msgspec.msgpack.Decoder(FromWorker)
        self._out = bytearray()
        self._out_of_memory = False
        self._wait = ProcessorWait(process.pid)
        self._restart_clock()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def start(
        cls,
        options: tuple[str, ...],
        *,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        start_timeout_s: float,
        on_message: Callable[[WorkerProcess[J], Ready | Probed | Scored | Unusable], None],
        on_end: Callable[[WorkerProcess[J], WorkerEnd], None],
    ) -> WorkerProcess[J]:
        """Start a process; does not wait for it.

        options: of worker.py's command line, behind the descriptor. timeout_s: for one job, from its last sign of life.
        start_timeout_s: for a start, and for the imports of one job. on_message(worker, message) is called for every frame but
        Loading and StillRunning, and on_end(worker, end) once, at the death of the process; neither is called after `end`.
        """
        channel, far_end = socket.socketpair()
        command = [sys.executable, "-m", "prolong.verifiers.workers.worker", str(far_end.fileno()), *options]
        with far_end:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        channel.setblocking(False)
        worker = cls(
            process,
            channel,
            loop=loop,
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
            on_message=on_message,
            on_end=on_end,
        )
        loop.add_reader(channel, worker._readable)
        worker._arm()
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def give(self, held: J, job: Job) -> None:
        """Queue a job for the worker; `flush` sends it."""
        if not self.jobs:
            self._restart_clock()
        self.jobs.append(held)
        self._out += to_frame(job)

    def finish_job(self) -> J:
        """Take the first job, which is answered, out of the worker's hands."""
        self.num_done += 1
        return self.jobs.popleft()

    def retire(self) -> None:
        """Take no more jobs."""
        self.accepts_jobs = False

    def flush(self) -> None:
        """Send queued jobs, as far as the socket takes them; the event loop sends the rest."""
        if self.jobs and self._timer is None:
            self._arm()
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self.flush)
            return
        except OSError:
            # the worker died; the reader sees the end of the stream and reports it
            self._out.clear()
        self._loop.remove_writer(self._socket)

    def end(self) -> None:
        """Kill the process and close everything; `on_end` is not called."""
        if self._timer:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._wait.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=END_TIMEOUT_S)

    @property
    def _limit_s(self) -> float:
        return self._timeout_s if self.state is WorkerState.ready else self._start_timeout_s

    def _restart_clock(self) -> None:
        """The clock of the first job, or of the start, begins."""
        self._since, self._waited_s = self._loop.time(), self._wait.read_s()

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._since + self._limit_s, self._check_clock)

    def _check_clock(self) -> None:
        """End the worker if its time is over. A worker has one timer, which is set again if the clock restarted meanwhile."""
        self._timer = None
        is_ready = self.state is WorkerState.ready
        if is_ready and not self.jobs:
            return
        elapsed_s = self._loop.time() - self._since
        left_s = self._limit_s - (elapsed_s - (self._wait.read_s() - self._waited_s))
        if left_s > 0 and elapsed_s < MOST_WAIT * self._limit_s:
            self._timer = self._loop.call_later(left_s, self._check_clock)
            return
        self.end()
        why = "timeout" if is_ready else f"no sign of life for {self._limit_s:.0f} s"
        self._on_end(self, WorkerEnd(why=why, killed_from_outside=False))

    def _readable(self) -> None:
        try:
            chunk = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            self._on_stream_end()
            return
        self._restart_clock()
        for payload in self._frames.feed(chunk):
            message = self._decoder.decode(payload)
            if isinstance(message, StillRunning):
                # its arrival has set the clock back
                continue
            if isinstance(message, Loading):
                if self.state is WorkerState.ready:
                    self.state = WorkerState.loading
            elif isinstance(message, Scored) and message.error == OUT_OF_MEMORY:
                self._out_of_memory = True  # the end of the stream follows
            else:
                if isinstance(message, Ready):
                    self.state = WorkerState.ready
                    self._rearm()
                self._on_message(self, message)

    def _rearm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._arm()

    def _on_stream_end(self) -> None:
        """The process died by itself, or was killed from outside."""
        self.end()
        code = self._process.returncode
        if self._out_of_memory:
            end = WorkerEnd(why="memory", killed_from_outside=False)
        else:
            end = WorkerEnd(why=f"exit code {code}", killed_from_outside=code in (-signal.SIGKILL, -signal.SIGTERM))
        self._on_end(self, end)
