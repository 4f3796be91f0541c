"""The sandbox that untrusted programs run in: bubblewrap around a jail of rlimits, Landlock and seccomp, or the jail alone.

    code.py --Sandbox--> Launcher --> [bwrap: own pid, net, ipc, mount namespaces] --> jail_server.py --fork--> jailed process

A jailed process is not root and has an empty environment. It reads the libraries of the system and of Python, and its input; it
writes nothing but its output, starts no process, opens no socket, and signals no other process. Only the C++ compiler may start
processes and write, into a scratch folder that is emptied after each program.

opening.py chooses the backend; a Sandbox made there has passed its self-test, unless the caller allowed unsafe code. A Sandbox
serves one thread. It must be opened by a thread that outlives it, because bubblewrap dies with the thread that started it.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...common.errors import UserError, VerifierFailure
from ...common.temporary_folder import TemporaryFolder
from .launcher import Launcher, Limits, RunResult, RunStatus

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
LOADERS = ("/lib64/ld-*.so.*", "/lib/ld-*.so.*")  # the kernel executes them with a compiled program
DEVICES = ("/dev/null", "/dev/urandom")
SCRATCH = "/scratch"  # under bubblewrap; a temporary folder otherwise
SCRATCH_BYTES = 256 << 20
# what takes the same program compiles fastest as C++17, so newer standards are tried where that fails
STANDARDS = ("c++17", "c++23", "c++20")
# the range of uids that systemd gives to services; two sandboxes seldom share one
FIRST_UID, NUM_UIDS = 61184, 4336
RECYCLE_AFTER = 5000  # runs of one launcher
COMPILE = Limits(cpu_s=10, wall_s=20, memory_mb=2048, file_bytes=64 << 20)
HARMLESS_CPP = '#include <cstdio>\nint main() { puts("1"); }'
SMALL = Limits(cpu_s=2, wall_s=5, memory_mb=512)

T = TypeVar("T")
NativeRun = Callable[..., RunResult]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """A way to start the launcher."""

    name: str  # bubblewrap, jail, unsafe
    bubblewrap: bool = False
    lenient: bool = False  # go on without layers that this kernel lacks
    without: tuple[str, ...] = ()  # layers of the jail to leave out; for tests of the self-test


BUBBLEWRAP, JAIL = Backend(name="bubblewrap", bubblewrap=True), Backend(name="jail")
UNSAFE = Backend(name="unsafe", lenient=True)


class Sandbox:
    """Runs untrusted programs, one at a time. The launcher starts with the first program.

    backend: name of the one in force. proved: the findings of its self-test (empty when unsafe). restarts: launchers that died.
    """

    def __init__(self, backend: Backend, preload: tuple[str, ...] = ()) -> None:
        """preload: modules for `call`, imported once."""
        self.backend, self.proved = backend.name, list[str]()
        self.restarts = 0
        self._how, self._preload, self._num_runs = backend, preload, 0
        self._scratch = SCRATCH
        self._folder: TemporaryFolder | None = None  # with the scratch folder's path, but under bubblewrap
        self._launcher: Launcher | None = None
        self._holds_program = False  # whether the scratch folder holds a compiled program, which would go with the launcher
        self._companion: Sandbox | None = None
        # called while a program runs within its limits
        self.on_look: Callable[[], None] = lambda: None

    def mark_proved(self, findings: list[str]) -> None:
        """Count as safe from now on, with the findings of the self-test."""
        self.proved = findings

    def companion(self, *preload: str) -> Sandbox:
        """A sandbox of the same kind with these modules imported; made once, and closed with this one.

        A large launcher makes each start of a program slower, so what few problems need is imported in another one.
        """
        if self._companion is None:
            self._companion = Sandbox(self._how, preload)
            self._companion.mark_proved(self.proved)
        self._companion.on_look = self.on_look
        return self._companion

    @property
    def unsafe(self) -> bool:
        return not self.proved

    def run(self, code: str, stdin: str | bytes = "", limits: Limits = SMALL) -> RunResult:
        """Run a Python program as `__main__`."""
        payload = stdin.encode() if isinstance(stdin, str) else stdin
        return self._run({"profile": "python", "kind": "program"}, code.encode(errors="replace"), payload, limits)

    def call_untrusted(
        self, code: str, function: str, args: list, kwargs: dict | None = None, limits: Limits = SMALL, setup: str = ""
    ) -> RunResult:
        """Call a function that untrusted Python code defines; `result` is its return value as JSON, hostile (outputs.py).

        setup: code of the problem's, in front of it.
        """
        payload = {"code": code, "setup": setup, "function": function, "args": args, "kwargs": kwargs or {}}
        return self._run({"profile": "python", "kind": "function"}, json.dumps(payload).encode(), b"", limits)

    def script(self, code: str, files: dict[str, bytes], limits: Limits = SMALL) -> RunResult:
        """Run a Python program whose arguments are the paths of files with these contents."""
        with self._files(files):
            payload = {"code": code, "arguments": ["script.py", *(f"{self._scratch}/{name}" for name in files)]}
            request = {"profile": "python", "kind": "script", "files": list(files)}
            return self._run(request, json.dumps(payload).encode(), b"", limits)

    @contextmanager
    def _files(self, files: dict[str, bytes]) -> Iterator[None]:
        """Put files into the scratch folder. What was there before goes with them in the end."""
        launcher = self._live_launcher()
        try:
            for name, content in files.items():
                launcher.put(name, content)
            yield
        finally:
            if launcher.alive:
                launcher.clean()

    def trace(self, code: str, setup: str, operations: list, limits: Limits = SMALL) -> RunResult:
        """Do operations on untrusted Python code; `result` is the list of their answers as JSON, hostile (trace.py)."""
        payload = {"code": code, "setup": setup, "operations": operations}
        return self._run({"profile": "python", "kind": "trace"}, json.dumps(payload).encode(), b"", limits)

    def call(self, module: str, function: str, args: list, limits: Limits = SMALL) -> RunResult:
        """Call a function of a trusted module on untrusted text, for scorers that may execute it; `result` is plain JSON.

        This contains the text, but does not make the function honest: text that is executed inside the scorer's process can
        write any result. Check the text first, as far as that goes.
        """
        payload = {"module": module, "function": function, "args": args}
        return self._run({"profile": "python", "kind": "trusted"}, json.dumps(payload).encode(), b"", limits)

    @contextmanager
    def compiled(self, code: str, std: str = "") -> Iterator[tuple[RunResult, NativeRun]]:
        """Compile C++; yields (result of the compiler, function that runs the program on a standard input).

        std: c++17 for example; otherwise the first of STANDARDS that takes the program. The function's third argument are
        files, whose paths are the program's arguments. Raises UserError where there is no compiler, VerifierFailure where it
        cannot compile a harmless program in time.
        """
        compiler = cpp_compiler()
        self._live_launcher()  # a launcher that replaces another brings a scratch folder of its own
        self._holds_program = True

        def run(stdin: bytes, limits: Limits, files: dict[str, bytes] | None = None) -> RunResult:
            launcher = self._live_launcher()
            for name, content in (files or {}).items():
                launcher.put(name, content)
            request = {"profile": "native", "kind": "", "environment": {}, "files": list(files or {})}
            return self._run(request, b"", stdin, limits)

        try:
            result = self._compile(compiler, code, std or STANDARDS[0])
            for newer in () if std else STANDARDS[1:]:
                if result.status is not RunStatus.error:
                    break
                again = self._compile(compiler, code, newer)
                # an old compiler does not know the standard; its complaint about that is not the program's fault
                if again.status is RunStatus.ok or b"unrecognized" not in again.stderr:
                    result = again
                    break
            yield result, run
        finally:
            self._holds_program = False
            if self._launcher and self._launcher.alive:
                self._launcher.clean()

    def _compile(self, compiler: str, code: str, std: str) -> RunResult:
        """Compile. A compiler that slept beyond its limit is tried again: this machine, or its disk, may have kept it."""
        result = self._compile_once(compiler, code, std)
        if _overslept(result):
            if _overslept(self._compile_once(compiler, HARMLESS_CPP, std)):
                raise VerifierFailure(f"sandbox: the compiler needs more than {COMPILE.wall_s:g} s for a harmless program")
            result = self._compile_once(compiler, code, std)
        return result

    def _compile_once(self, compiler: str, code: str, std: str) -> RunResult:
        dialect = std.replace("c++", "gnu++")
        flags = ["-O2", f"-std={dialect}", "-pipe", "-w", "-x", "c++", "-", "-o", f"{self._scratch}/program"]
        request = {
            "profile": "compile",
            "kind": "",
            "command": [os.path.realpath(compiler), *flags],
            "environment": {"PATH": "/usr/bin:/bin", "TMPDIR": self._scratch, "LC_ALL": "C"},
        }
        return self._run(request, b"", code.encode(errors="replace"), COMPILE)

    def close(self) -> None:
        """End the launcher; no process or file of it, or of its programs, is left."""
        if self._companion:
            self._companion.close()
        if self._launcher:
            self._launcher.close()
            self._launcher = None
            self._remove_scratch()

    def _remove_scratch(self) -> None:
        """Remove the scratch folder of a launcher that was killed; under bubblewrap it is gone with its mounts."""
        if self._folder:
            self._folder.remove()

    @property
    def pid(self) -> int:
        """Pid of the launcher's outermost process, which is started if need be."""
        return self._live_launcher().pid

    def _run(self, request: dict, payload: bytes, stdin: bytes, limits: Limits) -> RunResult:
        if not self._how.bubblewrap and os.getuid():
            # the limit counts all tasks of the user, so those that live elsewhere are added
            limits = replace(limits, tasks=limits.tasks + _tasks_of_user())
        launcher = self._live_launcher()
        self._num_runs += 1
        self.on_look()
        return launcher.run(request, payload, stdin, limits, self.on_look)

    def _live_launcher(self) -> Launcher:
        """The launcher, started if there is none, if it died, or if it is due for recycling."""
        if self._launcher and self._launcher.alive and (self._num_runs < RECYCLE_AFTER or self._holds_program):
            return self._launcher
        if self._launcher:
            if not self._launcher.alive:
                self.restarts += 1
            self.close()
        self._num_runs = 0
        python = _python_folders()
        wrap = _bubblewrap(python) if self._how.bubblewrap else []
        uid = FIRST_UID + os.getpid() % NUM_UIDS if os.getuid() == 0 else None
        if not self._how.bubblewrap:
            self._folder = TemporaryFolder("sandbox")
            self._scratch = str(self._folder.make())
            os.chown(self._scratch, -1 if uid is None else uid, -1)
        try:
            self._launcher = Launcher.start(wrap, sys.executable, self._setup(uid, python))
        except VerifierFailure:
            self._remove_scratch()
            raise
        return self._launcher

    def _setup(self, uid: int | None, python: list[str]) -> dict[str, Any]:
        """The first message to jail_server.py."""
        in_reach = all(_reachable(folder) for folder in python)
        return {
            "uid": uid,
            "keep_search": uid is not None and not self._how.bubblewrap and not in_reach,
            "system": SYSTEM,
            "loaders": [path for pattern in LOADERS for path in glob.glob(pattern)],
            "python": python,
            "scratch": self._scratch,
            "remove_scratch": not self._how.bubblewrap,
            "preload": self._preload,
            "lenient": self._how.lenient,
            "without": self._how.without,
        }


def cpp_compiler() -> str:
    """The path of the C++ compiler. Raises UserError where there is none."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise UserError("no C++ compiler on this machine: expected g++ or clang++ (Debian: `apt-get install g++`)")
    return compiler


def _overslept(compiled: RunResult) -> bool:
    """Whether the compiler was ended for its wall time, with CPU time left."""
    return compiled.status is RunStatus.timeout and compiled.cpu_s < COMPILE.cpu_s


def retry_once(run: Callable[[], T]) -> T:
    """Run something in a sandbox; once more if the sandbox fails, because its launcher may have been killed from outside.

    Raises VerifierFailure if it fails twice.
    """
    try:
        return run()
    except VerifierFailure:
        return run()


def _python_folders() -> list[str]:
    """Folders of Python, of its packages, and of our own two packages that run inside the sandbox."""
    ours = Path(__file__).resolve().parents[1]
    folders = [os.path.realpath(sys.base_prefix), sys.prefix, str(ours), str(ours.parent / "common")]
    return [folder for folder in dict.fromkeys(folders) if not folder.startswith("/usr/") and folder != "/usr"]


def _reachable(folder: str) -> bool:
    """Whether any user may pass through to this folder."""
    path = Path(folder)
    return all(place.stat().st_mode & 0o005 == 0o005 for place in (path, *path.parents))


def _bubblewrap(python: list[str]) -> list[str]:
    """The command line of bwrap. Raises UserError where it is not installed."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UserError("bwrap is not installed")
    command = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--cap-drop", "ALL"]
    if os.getuid() == 0:
        # no user namespace is needed; the launcher gives these up once it has another uid
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user"]
    for parent in sorted({str(parent) for path in (*SYSTEM, *DEVICES, *python) for parent in Path(path).parents} - {"/"}):
        # folders that bwrap makes by itself would be closed to all users but root
        command += ["--perms", "0755", "--dir", parent]
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
    """How many threads of this user live now."""
    count, uid = 0, os.getuid()
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(f"/proc/{entry.name}/task"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return count
