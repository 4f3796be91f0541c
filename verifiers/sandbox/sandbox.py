"""Where untrusted programs run: bubblewrap around a jail of rlimits, Landlock and seccomp, or the jail alone.

    code.py --Sandbox--> Launcher --> [bwrap: own pid, net, ipc, mount namespaces] --> jail.py --fork--> a jailed process

A jailed process is not root, has an empty environment, reads the system's and Python's libraries and what it is given, writes
nothing but its output, starts no process, opens no socket, signals nobody. Only the C++ compiler may start processes and
write, into a scratch folder that is emptied after each program. The backend is the first that passes the self-test
(selftest.py); there is no sandbox without one that did, unless the caller allows unsafe code.

One Sandbox serves one thread, and must be opened by a thread that outlives it: bubblewrap dies with the thread that started it.
"""

from __future__ import annotations

import atexit
import functools
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...common.errors import UserError, VerifierFailure
from .launcher import Launcher, Limits, RunResult

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
LOADERS = ("/lib64/ld-*.so.*", "/lib/ld-*.so.*")  # what the kernel executes along with a compiled program
DEVICES = ("/dev/null", "/dev/urandom")
SCRATCH = "/scratch"  # under bubblewrap; a temporary folder otherwise
SCRATCH_BYTES = 256 << 20
FIRST_UID, NUM_UIDS = 61184, 4336  # the range that systemd gives to services; two sandboxes seldom share one
RECYCLE_AFTER = 5000  # runs of one launcher
COMPILE = Limits(cpu_s=10, wall_s=15, memory_mb=2048, file_bytes=64 << 20)
SMALL = Limits(cpu_s=2, wall_s=5, memory_mb=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """A way to start the launcher. `without` names layers of the jail that are left out: for tests of the self-test."""

    name: str  # bubblewrap, jail, unsafe
    bubblewrap: bool = False
    lenient: bool = False  # go on without layers that this kernel lacks
    without: tuple[str, ...] = ()


BUBBLEWRAP, JAIL = Backend(name="bubblewrap", bubblewrap=True), Backend(name="jail")
UNSAFE = Backend(name="unsafe", lenient=True)


class Sandbox:
    """Runs untrusted programs, one at a time. Made by `open`.

    backend: name of the one in force. proved: what its self-test showed (empty when unsafe). restarts: launchers that died.
    """

    unsafe_allowed = False  # set by a process whose configuration says verifiers.allow_unsafe_code

    def __init__(self, backend: Backend, preload: tuple[str, ...] = ()) -> None:
        self.backend, self.proved = backend.name, list[str]()
        self.restarts = 0
        self._how, self._preload, self._num_runs = backend, preload, 0
        self._scratch = SCRATCH
        self._launcher: Launcher | None = None

    @classmethod
    def open(
        cls,
        *,
        preload: tuple[str, ...] = (),
        backends: tuple[Backend, ...] = (BUBBLEWRAP, JAIL),
    ) -> Sandbox:
        """The first backend that passes its self-test. preload: modules for `call`, imported once.

        Raises UserError, with what failed and what to install, when none does and unsafe code is not allowed.
        """
        from .selftest import prove

        failures = []
        for backend in backends:
            sandbox = cls(backend, preload)
            try:
                sandbox.proved = prove(sandbox)
                return sandbox
            except (OSError, UserError, VerifierFailure) as error:
                sandbox.close()
                failures.append(f"{backend.name}: {error}")
        if cls.unsafe_allowed:
            return cls(UNSAFE, preload)
        raise UserError(
            f"no sandbox for untrusted code on this machine ({'; '.join(failures)}). Install bubblewrap (Debian: "
            f"`apt-get install bubblewrap`) where user namespaces are allowed, or use Linux 5.13 or later with Landlock "
            f"and seccomp; or run such code unprotected with verifiers.allow_unsafe_code=true, which marks every verdict"
        )

    @property
    def unsafe(self) -> bool:
        return not self.proved

    def run(self, code: str, stdin: str | bytes = "", limits: Limits = SMALL) -> RunResult:
        """A Python program, as `__main__`."""
        payload = stdin.encode() if isinstance(stdin, str) else stdin
        return self._run({"profile": "python", "kind": "program"}, code.encode(errors="replace"), payload, limits)

    def call_untrusted(
        self, code: str, function: str, args: list, kwargs: dict | None = None, limits: Limits = SMALL
    ) -> RunResult:
        """Call a function that untrusted Python code defines; `result` is what it returned, as JSON (hostile, see
        outputs.py).
        """
        payload = {"code": code, "function": function, "args": args, "kwargs": kwargs or {}}
        return self._run({"profile": "python", "kind": "function"}, json.dumps(payload).encode(), b"", limits)

    def call(self, module: str, function: str, args: list, limits: Limits = SMALL) -> RunResult:
        """Call a function of a trusted module on untrusted text, for scorers that may execute it; `result` is plain JSON.

        This contains the text, it does not make the function honest: text that is executed inside the scorer's process can
        write any result. Check what can be checked of the text before.
        """
        payload = {"module": module, "function": function, "args": args}
        return self._run({"profile": "python", "kind": "trusted"}, json.dumps(payload).encode(), b"", limits)

    @contextmanager
    def compiled(self, code: str) -> Iterator[tuple[RunResult, Callable[[bytes, Limits], RunResult]]]:
        """Compile C++ and give (how that went, a function that runs the program on a standard input).

        Raises UserError where there is no compiler.
        """
        compiler = shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise UserError("no C++ compiler on this machine: expected g++ or clang++ (Debian: `apt-get install g++`)")
        flags = ["-O2", "-std=c++17", "-pipe", "-w", "-x", "c++", "-", "-o", f"{self._scratch}/program"]
        request = {
            "profile": "compile",
            "kind": "",
            "command": [os.path.realpath(compiler), *flags],
            "environment": {"PATH": "/usr/bin:/bin", "TMPDIR": self._scratch, "LC_ALL": "C"},
        }

        def run(stdin: bytes, limits: Limits) -> RunResult:
            return self._run({"profile": "native", "kind": "", "environment": {}}, b"", stdin, limits)

        try:
            yield self._run(request, b"", code.encode(errors="replace"), COMPILE), run
        finally:
            if self._launcher and self._launcher.alive:
                self._launcher.clean()

    def close(self) -> None:
        """End the launcher; nothing of it or of what it ran is left."""
        if self._launcher:
            self._launcher.close()
            self._launcher = None
            self._remove_scratch()

    def _remove_scratch(self) -> None:
        """A launcher removes its folder itself, unless it was killed; under bubblewrap it is gone with its mounts."""
        if not self._how.bubblewrap:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the outermost process of the launcher, started if need be."""
        return self._started().pid

    def _run(self, request: dict, payload: bytes, stdin: bytes, limits: Limits) -> RunResult:
        if not self._how.bubblewrap and os.getuid():  # the user's other threads count too
            limits = replace(limits, tasks=limits.tasks + _tasks_of_user())
        launcher = self._started()
        self._num_runs += 1
        return launcher.run(request, payload, stdin, limits)

    def _started(self) -> Launcher:
        if self._launcher and self._launcher.alive and self._num_runs < RECYCLE_AFTER:
            return self._launcher
        if self._launcher:
            self.restarts += not self._launcher.alive
            self.close()
        self._num_runs = 0
        wrap, python = _bubblewrap(_python_folders()) if self._how.bubblewrap else [], _python_folders()
        uid = FIRST_UID + os.getpid() % NUM_UIDS if os.getuid() == 0 else None
        if not self._how.bubblewrap:
            self._scratch = tempfile.mkdtemp(prefix="prolong-scratch-")
            os.chown(self._scratch, -1 if uid is None else uid, -1)
        setup = {
            "uid": uid,
            "keep_search": uid is not None and not self._how.bubblewrap and not all(map(_reachable, python)),
            "system": SYSTEM,
            "loaders": [path for pattern in LOADERS for path in glob.glob(pattern)],
            "python": python,
            "scratch": self._scratch,
            "remove_scratch": not self._how.bubblewrap,
            "preload": self._preload,
            "lenient": self._how.lenient,
            "without": self._how.without,
        }
        try:
            launcher = self._launcher = Launcher(wrap, sys.executable, setup)
        except VerifierFailure:
            self._remove_scratch()
            raise
        return launcher


@functools.cache
def shared(preload: tuple[str, ...] = ()) -> Sandbox:
    """This process's sandbox for code, or for the scorers of the modules named, closed at its end.

    Raises UserError as `Sandbox.open` does.
    """
    sandbox = Sandbox.open(preload=preload)
    atexit.register(sandbox.close)
    return sandbox


def _python_folders() -> list[str]:
    """Where Python, its packages and the two packages of ours that the inside needs lie."""
    ours = Path(__file__).resolve().parents[1]
    folders = [os.path.realpath(sys.base_prefix), sys.prefix, str(ours), str(ours.parent / "common")]
    return [folder for folder in dict.fromkeys(folders) if not folder.startswith("/usr/") and folder != "/usr"]


def _reachable(folder: str) -> bool:
    """Whether any user may pass through to it."""
    path = Path(folder)
    return all(place.stat().st_mode & 0o005 == 0o005 for place in (path, *path.parents))


def _bubblewrap(python: list[str]) -> list[str]:
    """The command line. Raises UserError where there is no bwrap."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UserError("bwrap is not installed")
    command = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--cap-drop", "ALL"]
    if os.getuid() == 0:  # the launcher gives these up once it has another uid; no user namespace is needed
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user"]
    for parent in sorted({str(parent) for path in (*SYSTEM, *DEVICES, *python) for parent in Path(path).parents} - {"/"}):
        command += ["--perms", "0755", "--dir", parent]  # bwrap's own would be closed to all but root
    for path in SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            command += ["--ro-bind", path, path]
    for path in python:
        command += ["--ro-bind", path, path]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    command += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", "/"]
    return command


def _tasks_of_user() -> int:
    """Threads of this user that live now."""
    count, uid = 0, os.getuid()
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return count
