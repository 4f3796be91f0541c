"""Sandboxes for tests: each backend that this machine has, targets for attacks, and a look at what an attack left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from prolong.verifiers import code
from prolong.verifiers.api import Score, Task
from prolong.verifiers.sandbox import landlock
from prolong.verifiers.sandbox.opening import open_sandbox
from prolong.verifiers.sandbox.sandbox import BUBBLEWRAP, FIRST_UID, JAIL, NUM_UIDS, Backend, Sandbox

from tests.support.runs import living, wait_until

BACKENDS = {backend.name: backend for backend in (BUBBLEWRAP, JAIL)}


def missing(backend: Backend) -> str:
    """The reason why this machine cannot have the backend, or ""; found without the sandbox's own code."""
    if not landlock.version():
        return "this kernel has no Landlock"
    if not backend.bubblewrap:
        return ""
    if not shutil.which("bwrap"):
        return "bwrap is not installed (Debian: apt-get install bubblewrap)"
    command = [
        "bwrap",
        "--unshare-pid",
        "--unshare-net",
        *["--unshare-user"] * bool(os.getuid()),
        "--ro-bind",
        "/",
        "/",
        "/bin/true",
    ]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return f"bwrap cannot make namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@contextlib.contextmanager
def opened(backend: Backend) -> Iterator[Sandbox]:
    """A sandbox of this backend. Skips, with the reason, where the machine cannot have it; a failed self-test is an error."""
    if reason := missing(backend):
        pytest.skip(f"no {backend.name} sandbox here: {reason}")
    sandbox = open_sandbox(backends=(backend,))
    try:
        yield sandbox
    finally:
        sandbox.close()


def judge(program: str, answer: dict, language: str = "python") -> Score:
    """The score of a completion with this program; for tests that use the fixture `in_box`."""
    code.CODE.check(answer)
    block = f"```{language}\n{textwrap.dedent(program).strip()}\n```\n"
    task = Task(completion=f"<think>easy</think>So:\n{block}", answer=answer)
    return code.CODE.quick(task) or code.CODE.score(task)


@dataclass
class Targets:
    """Targets of attacks: files, sockets and a process outside of the sandbox."""

    folder: Path
    port: int
    abstract: str
    unix: str

    def as_json(self) -> str:
        """For an attack's standard input: secret file, folder, port, abstract socket, Unix socket, our pid."""
        return json.dumps([str(self.secret), str(self.folder), self.port, self.abstract, self.unix, os.getpid()])

    @property
    def secret(self) -> Path:
        return self.folder / "secret"

    def assert_untouched(self) -> None:
        assert self.secret.read_text() == "the secret"
        assert sorted(path.name for path in self.folder.iterdir()) == ["secret", "socket"]


@contextlib.contextmanager
def targets(folder: Path) -> Iterator[Targets]:
    """Set out targets that any user may reach, so that only the sandbox keeps attackers away."""
    for place in (folder, *folder.parents):
        if place.owner() == psutil.Process().username() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o755)
    folder.chmod(0o777)
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        name = f"\0prolong-test-{os.urandom(8).hex()}"
        abstract.bind(name)
        unix.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        for listener in (tcp, abstract, unix):
            listener.listen()
        found = Targets(folder, tcp.getsockname()[1], name, str(folder / "socket"))
        found.secret.write_text("the secret")
        found.secret.chmod(0o666)
        yield found


def names_in(processes: Iterable[psutil.Process]) -> list[tuple[psutil.Process, str]]:
    """Those that are still there, with their names."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append((process, process.name()))
    return found


def survivors(sandbox: Sandbox) -> list[str]:
    """Processes of the sandbox beyond its launcher (and the two bwrap processes around it)."""
    outermost = psutil.Process(sandbox.pid)
    family = [outermost, *outermost.children(recursive=True)]
    launcher, *others = [process for process, name in names_in(family) if name != "bwrap"]
    strangers = [] if os.getuid() else abandoned({FIRST_UID + os.getpid() % NUM_UIDS})
    return [f"{process}" for process in {*living(others), *strangers} - {launcher}]


def abandoned(users: set[int]) -> list[psutil.Process]:
    """Living processes of these users of sandboxes whose sandbox has ended. Users of two sandboxes may be the same."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.uids().real in users and not any(map(_opens_sandboxes, process.parents())):
                found.append(process)
    return living(found)


def _opens_sandboxes(process: psutil.Process) -> bool:
    """Whether this is a process of ours, outside of any sandbox. The one that takes orphans in may be any program."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.pid != 1 and process.uids().real == os.getuid() and "python" in process.exe()
    return False


def assert_in_order(sandbox: Sandbox, aims: Targets) -> None:
    """After an attack, nothing outside was touched, no process of it lives, and the sandbox still serves."""
    aims.assert_untouched()
    assert sandbox.run("print(6 * 7)").stdout == b"42\n"
    wait_until(f"the end of {survivors(sandbox)}", lambda: not survivors(sandbox), 60)
