"""One launcher process (jail_server.py) as its sandbox sees it: started inside a backend, it runs one program after the other.

This side owns the limits of every run. CPU time is the program's budget. Wall time is for programs that sleep: the time in
which a program waits for a processor does not count, so that a busy machine takes no reward away. Input travels in sealed
memory files, output in pipes of which the launcher keeps no end. A launcher that disobeys is killed, and `alive` is False then.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import NoReturn

import msgspec

from ...common.errors import VerifierFailure
from .clocks import Clocks, pid_of, readable

START_TIMEOUT_S = 120.0  # covers the imports of the preloaded modules
LAST_WORDS_S = 0.5
GRACE_S = 10.0  # for a launcher to kill a program and report
MAX_MESSAGE_BYTES = 1 << 16
KEPT_STDERR_BYTES = 4096
LOOK_S = 0.25  # how often a running program's clocks are read
# A program that shares its processors needs more CPU time for the same work: caches are cold again and again. While it waits
# for a processor half of the time, it may use an eighth more.
CONTENTION = 0.25
MOST_WAIT = 20  # a program that has no processor for so many times its wall time tells nothing
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one run."""

    cpu_s: float = 5.0
    wall_s: float = 8.0  # without the time in which it waits for a processor
    memory_mb: int = 1024  # address space
    output_bytes: int = 1 << 20  # each of standard output, standard error and result
    file_bytes: int = 0  # size of a file that the program writes; only the compiler may write
    tasks: int = 64  # threads and processes of the sandbox's user


class RunStatus(StrEnum):
    """How a run ended."""

    ok = "ok"
    error = "error"  # an exit code other than 0
    signal = "signal"
    timeout = "timeout"  # CPU time or wall time
    output = "output"  # more output than allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The end of a run, and what it left in its pipes. All bytes are hostile."""

    status: RunStatus
    code: int  # exit code, or minus the signal
    stdout: bytes
    stderr: bytes  # its last 4096 bytes
    result: bytes  # the return value of a called function, as JSON
    seconds: float
    cpu_s: float
    waited_s: float = 0.0  # time in which it was ready to run and had no processor


class LauncherEvent(msgspec.Struct, kw_only=True):
    """Launcher -> this process: one event of the launcher or of its program."""

    event: str  # ready, started, failed, ended, put, clean
    why: str = ""
    pid: int = 0
    code: int = 0
    cpu_s: float = 0.0


@dataclass(slots=True)
class _Run:
    """The run in hand."""

    limits: Limits
    deadline: float
    streams: dict[int, bytearray]
    taken: dict[int, int] = field(default_factory=dict)
    pid: int = 0
    clocks: Clocks = field(default_factory=lambda: Clocks(0))
    pidfd: int = -1  # of the program, until its clocks are read for the first time
    next_look: float = 0.0
    last_look: float = 0.0
    stalled_s: float = 0.0
    began: float = 0.0
    given_up: RunStatus | None = None  # our own verdict, once we ordered its end
    ended: LauncherEvent | None = None

    @property
    def waited_s(self) -> float:
        """Time that does not count: without a processor, or while this machine stood still."""
        return self.clocks.waited_s + self.stalled_s

    @property
    def cpu_limit_s(self) -> float:
        """The limit of CPU time, which grows a little with the load of the machine."""
        share = self.clocks.waited_s / max(self.clocks.waited_s + self.clocks.cpu_s, 1e-9)
        return self.limits.cpu_s * (1 + CONTENTION * share)


class Launcher:
    """A launcher that is ready; made by `start`. `alive` is False once it was closed or killed."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, said: int, *, sees_pids: bool) -> None:
        """said: descriptor of the memory file that is its standard error. sees_pids: whether its pids are also ours."""
        self.alive = True
        self._process, self._channel, self._said, self._sees_pids = process, channel, said, sees_pids
        self._running = 0  # pid of the program in hand

    @classmethod
    def start(cls, wrap: Sequence[str], python: str, setup: dict) -> Launcher:
        """Start a launcher and block until it is ready.

        wrap: the backend's command line, in front of the launcher's. setup: see jail_server.py.
        Raises VerifierFailure, with the launcher's own words, if it does not become ready.
        """
        channel, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said = os.memfd_create("launcher-stderr")
        command = [*wrap, python, "-s", "-P", "-m", "prolong.verifiers.sandbox.jail_server", str(far_end.fileno())]
        with far_end:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=[far_end.fileno()],
                    # nothing of our environment; the fixed seed gives sets the same order in every run
                    env={"PYTHONHASHSEED": "0"},
                    start_new_session=True,
                )
            except OSError as error:
                channel.close()
                os.close(said)
                raise VerifierFailure(f"sandbox: the launcher could not be started: {error}") from error
        launcher = cls(process, channel, said, sees_pids=not wrap)
        launcher._send(setup)
        event = launcher._receive(monotonic() + START_TIMEOUT_S)
        if event.event != "ready":
            launcher._fail(f"the launcher said {event.event!r} instead of ready")
        return launcher

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(
        self, request: dict, payload: bytes, stdin: bytes, limits: Limits, on_look: Callable[[], None] = lambda: None
    ) -> RunResult:
        """Start one jailed program and wait for its end. Blocks for at most wall_s and two graces, if it has a processor.

        on_look: called again and again while the program runs within its limits.
        Raises VerifierFailure when the launcher or a hopelessly busy machine, not the program, is at fault.
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
            run = _Run(limits, monotonic() + GRACE_S, {reader: bytearray() for reader in readers})
            try:
                self._follow(run, on_look)
            finally:
                if run.pidfd >= 0:
                    os.close(run.pidfd)
        finally:
            for reader in readers:
                os.close(reader)
        ended = run.ended
        assert ended is not None
        stdout, stderr, value = (bytes(run.streams[reader]) for reader in readers)
        return RunResult(
            status=_status(ended, run.cpu_limit_s) if run.given_up is None else run.given_up,
            code=ended.code,
            stdout=stdout,
            stderr=stderr[-KEPT_STDERR_BYTES:],
            result=value,
            seconds=monotonic() - run.began,
            cpu_s=ended.cpu_s,
            waited_s=run.waited_s,
        )

    def put(self, name: str, content: bytes) -> None:
        """Make a file in the scratch folder."""
        descriptor = _sealed(content)
        try:
            self._send({"put": name}, [descriptor])
        finally:
            os.close(descriptor)
        self._receive(monotonic() + GRACE_S)

    def clean(self) -> None:
        """Empty the scratch folder."""
        self._send({"clean": True})
        self._receive(monotonic() + GRACE_S)

    def close(self) -> None:
        """End the launcher and its program; kill it if it does not end by itself."""
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

    def _follow(self, run: _Run, on_look: Callable[[], None]) -> None:
        """Consumes events and output; blocks until the program ended and its pipes are empty, or a limit."""
        run.next_look = monotonic() + LOOK_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            for reader in run.streams:
                selector.register(reader, selectors.EVENT_READ)
            while not run.ended or len(selector.get_map()) > 1:
                ready = selector.select(max(0.0, run.next_look - monotonic()))
                if monotonic() >= run.next_look:
                    on_look()
                    self._look(run)
                for key, _ in ready:
                    if key.fileobj is self._channel:
                        self._on_event(run)
                    elif not self._drain(run, key.fd):
                        selector.unregister(key.fd)

    def _on_event(self, run: _Run) -> None:
        event = self._receive(monotonic() + GRACE_S, run)
        if event.event == "started":
            run.pid = self._running = event.pid
            run.began = run.last_look = monotonic()
            run.next_look = run.began + min(LOOK_S, run.limits.wall_s, run.limits.cpu_s)
        elif event.event == "ended":
            self._running = 0
            run.ended = event
            run.deadline = monotonic() + GRACE_S
            run.next_look = monotonic() + LOOK_S
        else:
            self._fail(f"the jail could not be closed: {event.why or event.event}")

    def _drain(self, run: _Run, reader: int) -> bool:
        """Read once from a pipe. Returns False at the end of the stream."""
        chunk = os.read(reader, 1 << 16)
        kept = run.streams[reader]
        run.taken[reader] = run.taken.get(reader, 0) + len(chunk)
        kept += chunk
        if run.taken[reader] > run.limits.output_bytes:
            del kept[run.limits.output_bytes :]
            self._give_up(run, RunStatus.output)
        return bool(chunk)

    def _look(self, run: _Run) -> None:
        """Read the clocks, and end a program that is beyond a limit of its own."""
        now = monotonic()
        late_s = max(0.0, now - run.next_look)
        run.deadline += late_s
        if not run.pid or run.ended or run.given_up:
            if now >= run.deadline:
                self._fail("the launcher did not end a program in time")
            run.next_look = now + LOOK_S
            return
        if run.pidfd >= 0:
            run.clocks = Clocks(pid_of(run.pidfd))
            os.close(run.pidfd)
            run.pidfd = -1
        counted_s = run.clocks.cpu_s + run.clocks.waited_s
        run.clocks.read()
        counted_s = run.clocks.cpu_s + run.clocks.waited_s - counted_s
        # what kept this process from looking in time may have kept the program from running without any clock's knowing
        run.stalled_s += min(late_s, max(0.0, now - run.last_look - counted_s))
        run.last_look = now
        cpu_left_s = run.cpu_limit_s - run.clocks.cpu_s
        wall_left_s = run.limits.wall_s - (now - run.began - run.waited_s)
        if min(cpu_left_s, wall_left_s) <= 0:
            self._give_up(run, RunStatus.timeout)
        elif now - run.began > MOST_WAIT * run.limits.wall_s:
            self._fail("this machine is too busy: a program got next to no processor time")
        run.next_look = now + min(LOOK_S, max(0.01, min(cpu_left_s, wall_left_s)))

    def _give_up(self, run: _Run, status: RunStatus) -> None:
        """Order the program's end, unless that was done before."""
        if run.given_up:
            return
        run.given_up = status
        if not run.ended:
            run.deadline = monotonic() + GRACE_S
            self._send({"kill": True})

    # --- the launcher -----------------------------------------------------------------------------------------------------

    def _send(self, message: dict, descriptors: Sequence[int] = ()) -> None:
        try:
            self._channel.settimeout(GRACE_S)
            socket.send_fds(self._channel, [msgspec.json.encode(message)], descriptors)
        except OSError as error:
            self._fail(f"the launcher is gone: {error}")

    def _receive(self, deadline: float, run: _Run | None = None) -> LauncherEvent:
        """The next event; a descriptor that comes with it belongs to the run."""
        try:
            self._channel.settimeout(max(0.001, deadline - monotonic()))
            payload, descriptors, _, _ = socket.recv_fds(self._channel, MAX_MESSAGE_BYTES, 1)
            for descriptor in descriptors:
                if run and run.pidfd < 0:
                    run.pidfd = descriptor
                else:
                    os.close(descriptor)
        except OSError as error:
            payload = b""
            why = f"no word from the launcher: {error}"
        else:
            why = "the launcher ended"
        if not payload:
            self._fail(why)
        return msgspec.json.decode(payload, type=LauncherEvent)

    def _fail(self, what: str) -> NoReturn:
        """Kill everything and raise VerifierFailure with the last line of the launcher's standard error."""
        # it may be dying by itself, about to write the reason
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=LAST_WORDS_S)
        self._kill()
        said = os.pread(self._said, 1 << 16, max(0, os.fstat(self._said).st_size - 2000)).decode(errors="replace").strip()
        self.close()
        raise VerifierFailure(f"sandbox: {what}{': ' + said.splitlines()[-1] if said else ''}")

    def _kill(self) -> None:
        """Kill the launcher, and the group of its program if we can see that; otherwise it ends with its pid namespace."""
        self.alive = False
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=GRACE_S)
        if self._running and self._sees_pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running, signal.SIGKILL)


def _status(ended: LauncherEvent, cpu_limit_s: float) -> RunStatus:
    if ended.code == -signal.SIGXCPU or ended.cpu_s > cpu_limit_s:
        return RunStatus.timeout
    if ended.code < 0:
        return RunStatus.signal
    return RunStatus.error if ended.code else RunStatus.ok


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "as": limits.memory_mb << 20,
        # for a launcher that nobody watches any more; whole seconds
        "cpu": math.ceil(limits.cpu_s * (1 + CONTENTION if readable() else 1)),
        "fsize": limits.file_bytes,
        "nproc": limits.tasks,
        "nofile": 64,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
    }


def _sealed(content: bytes) -> int:
    """Descriptor of a memory file that can no longer be changed, at its start."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
