"""One launcher process (jail.py) as its sandbox sees it: started inside a backend, asked to run one program after the other.

The deadline of every run is owned here, and so is the bound on its output. What goes in travels in sealed memory files, what
comes out in pipes of which the launcher keeps no end. A launcher that does not do as told is killed and `alive` is False from
then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from ...common.errors import VerifierFailure

START_TIMEOUT_S = 120.0  # imports of what is preloaded included
LAST_WORDS_S = 0.5
GRACE_S = 10.0  # for a launcher to kill and report
MAX_MESSAGE_BYTES = 1 << 16
KEPT_STDERR_BYTES = 4096
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of one run. CPU time is what a program is held to; wall time, larger, is for programs that wait."""

    cpu_s: float = 5.0
    wall_s: float = 8.0
    memory_mb: int = 1024  # of address space
    output_bytes: int = 1 << 20  # each of standard output, standard error and result
    file_bytes: int = 0  # written by the program; no program but the compiler may write
    tasks: int = 64  # threads and processes of the sandbox's user


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended. status: ok | error (exit code not 0) | signal | timeout | output (more than allowed)."""

    status: str
    code: int  # exit code, or minus the signal
    stdout: bytes
    stderr: bytes  # the end of it
    result: bytes  # what a called function returned, as JSON
    seconds: float
    cpu_s: float


class Event(msgspec.Struct, kw_only=True):
    """Launcher -> us."""

    event: str  # ready, started, failed, ended, clean
    why: str = ""
    pid: int = 0
    code: int = 0
    cpu_s: float = 0.0


@dataclass(slots=True)
class _Progress:
    """Of the run in hand."""

    limits: Limits
    deadline: float
    streams: dict[int, bytearray]
    taken: dict[int, int] = field(default_factory=dict)
    pid: int = 0
    began: float = 0.0
    verdict: str = ""  # ours, once we have given up on it
    ended: Event | None = None


class Launcher:
    """Starts at construction and blocks until it is ready. Raises VerifierFailure with the launcher's own words if it does not.

    wrap: the backend's command line, to which the launcher's is appended. setup: see jail.py.
    """

    def __init__(self, wrap: Sequence[str], python: str, setup: dict) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = os.memfd_create("launcher-stderr")
        command = [*wrap, python, "-s", "-P", "-m", "prolong.verifiers.sandbox.jail_server", str(theirs.fileno())]
        self.alive, self._running, self._sees_pids = True, 0, not wrap
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said,
                    pass_fds=[theirs.fileno()],
                    env={"PYTHONHASHSEED": "0"},  # the same order of sets in every run; nothing of ours is in it
                    start_new_session=True,
                )
            except OSError as error:
                self._channel.close()
                os.close(self._said)
                raise VerifierFailure(f"sandbox: the launcher could not be started: {error}") from error
        self._send(setup)
        event = self._receive(monotonic() + START_TIMEOUT_S)
        if event.event != "ready":
            self._fail(f"the launcher said {event.event!r} instead of ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, request: dict, payload: bytes, stdin: bytes, limits: Limits) -> RunResult:
        """Start one jailed program and wait for its end. Blocks for at most wall_s and two graces.

        Raises VerifierFailure when the launcher, not the program, is at fault.
        """
        pipes = [os.pipe() for _ in range(3)]
        inputs = [_sealed(stdin), _sealed(payload)]
        readers, (out, err, result) = [reader for reader, _ in pipes], [writer for _, writer in pipes]
        try:
            try:
                self._send(request | {"limits": _rlimits(limits)}, [inputs[0], out, err, inputs[1], result])
            finally:
                for descriptor in (out, err, result, *inputs):
                    os.close(descriptor)
            progress = _Progress(limits, monotonic() + GRACE_S, {reader: bytearray() for reader in readers})
            self._follow(progress)
        finally:
            for reader in readers:
                os.close(reader)
        ended = progress.ended
        assert ended is not None
        stdout, stderr, value = (bytes(progress.streams[reader]) for reader in readers)
        return RunResult(
            status=progress.verdict or _status(ended, limits),
            code=ended.code,
            stdout=stdout,
            stderr=stderr[-KEPT_STDERR_BYTES:],
            result=value,
            seconds=monotonic() - progress.began,
            cpu_s=ended.cpu_s,
        )

    def clean(self) -> None:
        """Empty the scratch folder."""
        self._send({"clean": True})
        self._receive(monotonic() + GRACE_S)

    def close(self) -> None:
        """End the launcher and what it runs; kill it if it does not end by itself."""
        self.alive = False
        self._channel.close()
        try:
            self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill()
        if self._said >= 0:
            os.close(self._said)
            self._said = -1

    # --- the run in hand ------------------------------------------------------------------------------------------------

    def _follow(self, progress: _Progress) -> None:
        """Consumes events and output; blocks until the program ended and its pipes are empty, or the deadline."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            for reader in progress.streams:
                selector.register(reader, selectors.EVENT_READ)
            while not progress.ended or len(selector.get_map()) > 1:
                ready = selector.select(max(0.0, progress.deadline - monotonic()))
                if not ready:
                    self._late(progress)
                for key, _ in ready:
                    if key.fileobj is self._channel:
                        self._hear(progress)
                    elif not self._drain(progress, key.fd):
                        selector.unregister(key.fd)

    def _hear(self, progress: _Progress) -> None:
        event = self._receive(progress.deadline)
        if event.event == "started":
            progress.pid = self._running = event.pid
            progress.began = monotonic()
            progress.deadline = progress.began + progress.limits.wall_s
        elif event.event == "ended":
            self._running = 0
            progress.ended = event
            progress.deadline = monotonic() + GRACE_S
        else:
            self._fail(f"the jail could not be closed: {event.why or event.event}")

    def _drain(self, progress: _Progress, reader: int) -> bool:
        """False at the end of the stream."""
        chunk = os.read(reader, 1 << 16)
        kept = progress.streams[reader]
        progress.taken[reader] = progress.taken.get(reader, 0) + len(chunk)
        kept += chunk
        if progress.taken[reader] > progress.limits.output_bytes:
            del kept[progress.limits.output_bytes :]
            self._give_up(progress, "output")
        return bool(chunk)

    def _late(self, progress: _Progress) -> None:
        if not progress.pid or progress.ended or progress.verdict:
            self._fail("the launcher did not end a program in time")
        self._give_up(progress, "timeout")

    def _give_up(self, progress: _Progress, verdict: str) -> None:
        if progress.verdict:
            return
        progress.verdict = verdict
        if not progress.ended:
            progress.deadline = monotonic() + GRACE_S
            self._send({"kill": True})

    # --- the launcher -----------------------------------------------------------------------------------------------------

    def _send(self, message: dict, descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.settimeout(GRACE_S)
            socket.send_fds(self._channel, [msgspec.json.encode(message)], descriptors)
        except OSError as error:
            self._fail(f"the launcher is gone: {error}")

    def _receive(self, deadline: float) -> Event:
        try:
            self._channel.settimeout(max(0.001, deadline - monotonic()))
            payload = self._channel.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            payload = b""
            why = f"no word from the launcher: {error}"
        else:
            why = "the launcher ended"
        if not payload:
            self._fail(why)
        return msgspec.json.decode(payload, type=Event)

    def _fail(self, what: str) -> None:
        """Kill everything and raise VerifierFailure with the launcher's last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=LAST_WORDS_S)  # it may be dying by itself, and about to say why
        self._kill()
        said = os.pread(self._said, 1 << 16, max(0, os.fstat(self._said).st_size - 2000)).decode(errors="replace").strip()
        self.close()
        raise VerifierFailure(f"sandbox: {what}{': ' + said.splitlines()[-1] if said else ''}")

    def _kill(self) -> None:
        """The launcher, and the group of what it runs if that is ours to see (else its namespace ends with it)."""
        self.alive = False
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=GRACE_S)
        if self._running and self._sees_pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running, signal.SIGKILL)


def _status(ended: Event, limits: Limits) -> str:
    if ended.code == -signal.SIGXCPU or ended.cpu_s > limits.cpu_s:
        return "timeout"
    return "ok" if ended.code == 0 else "signal" if ended.code < 0 else "error"


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "as": limits.memory_mb << 20,
        "cpu": math.ceil(limits.cpu_s),
        "fsize": limits.file_bytes,
        "nproc": limits.tasks,
        "nofile": 64,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
    }


def _sealed(content: bytes) -> int:
    """A memory file that nobody can change any more, read from its start."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
