"""How backends are put together; attacks on them are in tests/integration/test_sandbox_attacks.py."""

import os
import resource
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.verifiers.sandbox import jail_server, launcher, sandbox
from prolong.verifiers.sandbox.clocks import Clocks
from prolong.verifiers.sandbox.launcher import Launcher, Limits, RunResult, RunStatus
from prolong.verifiers.sandbox.opening import open_sandbox
from prolong.verifiers.sandbox.sandbox import JAIL, Sandbox


def test_only_what_is_listed_is_seen_under_bubblewrap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: f"/usr/bin/{name}")
    command = sandbox._bubblewrap(["/opt/python"])
    writable = [command[i + 1] for i, word in enumerate(command) if word == "--bind"]
    shown = [command[i + 1] for i, word in enumerate(command) if word == "--ro-bind"]
    assert (writable, "/opt/python" in shown, "/etc" in shown, "/home" in shown) == ([], True, False, False)
    assert {"--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent", "--remount-ro"} <= set(command)
    assert "--proc" not in command
    assert command[command.index("/scratch") - 1] == "--tmpfs"


@pytest.mark.parametrize(("uid", "expected"), [(0, "--cap-add"), (1000, "--unshare-user")])
def test_root_needs_no_user_namespace(uid: int, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sandbox.os, "getuid", lambda: uid)
    command = sandbox._bubblewrap([])
    assert expected in command
    assert ("--unshare-user" in command) == (uid != 0)


def test_what_others_cannot_enter_is_not_reachable(tmp_path: Path):
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    reachable = all(place.stat().st_mode & 0o005 == 0o005 for place in tmp_path.parents)
    (tmp_path / "closed").chmod(0o755)
    assert sandbox._reachable("/usr/bin")
    (tmp_path / "closed").chmod(0o700)
    assert not sandbox._reachable(str(inner))
    assert reachable or not sandbox._reachable(str(tmp_path))


def test_threads_of_this_user_are_counted():
    assert 1 <= sandbox._tasks_of_user() < 100_000


def test_a_launcher_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    box = Sandbox(JAIL)
    with pytest.raises(VerifierFailure, match="the launcher"):
        box.run("print(1)")
    box.close()
    monkeypatch.setattr(sandbox.sys, "executable", "/nowhere/python")
    with pytest.raises(UserError, match="jail: sandbox: the launcher could not be started"):
        open_sandbox(backends=(JAIL,))


def test_limits_never_rise_and_cpu_time_warns_first():
    """Runs in a process of its own, because limits cannot be raised again."""
    script = (
        "import resource; from prolong.verifiers.sandbox.jail_server import limit\n"
        "limit({'nofile': 50, 'cpu': 7}); limit({'nofile': 60, 'cpu': 100})\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CPU))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(50, 50) (8, 8)"
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY


def test_inputs_are_sealed_before_anybody_sees_them():
    descriptor = launcher._sealed(b"x" * 100_000)
    try:
        assert os.read(descriptor, 200_000) == b"x" * 100_000
        for change in (
            lambda: os.write(descriptor, b"y"),
            lambda: os.ftruncate(descriptor, 0),
            lambda: os.pwrite(descriptor, b"y", 0),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("code", "cpu_s", "status"),
    [(0, 0.1, "ok"), (1, 0.1, "error"), (-11, 0.1, "signal"), (-24, 0.1, "timeout"), (0, 9.0, "timeout")],
)
def test_an_end_has_a_name(code: int, cpu_s: float, status: str):
    event = launcher.LauncherEvent(event="ended", code=code, cpu_s=cpu_s)
    assert launcher._status(event, 5.0) == status


def test_the_launcher_needs_nothing_but_the_standard_library():
    """The code inside imports only Python's own modules and ours."""
    script = (
        "import sys; import prolong.verifiers.sandbox.jail_server; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, timeout=60, check=True
    )
    new = set(done.stdout.split()) - {name.split(".")[0] for name in bare.stdout.split()} - {"prolong"}
    assert new <= sys.stdlib_module_names
    assert jail_server.DESCRIPTORS == 5


@pytest.mark.parametrize(
    ("late_s", "cpu_s", "waited_s", "forgiven_s"),
    [
        (0.0, 0.0, 0.0, 0.0),  # it slept
        (0.5, 0.0, 0.0, 0.5),  # all stood still
        (0.5, 0.75, 0.0, 0.0),  # it ran meanwhile, and this process alone was kept
        (0.5, 0.25, 0.25, 0.25),  # two thirds of the interval are on its clocks
        (0.5, 0.0, 0.75, 0.0),  # the wait is forgiven once
    ],
)
def test_a_late_look_forgives_what_no_clock_of_the_program_counted(
    late_s: float, cpu_s: float, waited_s: float, forgiven_s: float, monkeypatch: pytest.MonkeyPatch
):
    class Told(Clocks):
        def read(self) -> None:
            self.cpu_s, self.waited_s = 2 + cpu_s, 1 + waited_s

    clocks = Told(0)
    clocks.cpu_s, clocks.waited_s = 2.0, 1.0
    monkeypatch.setattr(launcher, "monotonic", lambda: 100.25 + late_s)
    limits = Limits(cpu_s=10, wall_s=10)
    run = launcher._Run(limits, 200.0, {}, pid=7, clocks=clocks, began=97.0, last_look=100.0, next_look=100.25)
    process = subprocess.Popen(["/bin/true"])
    with socket.socket() as channel:
        Launcher(process, channel, -1, sees_pids=False)._look(run)
    process.wait(timeout=60)
    assert (run.given_up, run.deadline) == (None, 200.0 + late_s)
    assert run.waited_s == pytest.approx(1 + waited_s + forgiven_s)


SLEPT = RunResult(status=RunStatus.timeout, code=-9, stdout=b"", stderr=b"", result=b"", seconds=99, cpu_s=0.1)
BUSY, DONE = replace(SLEPT, cpu_s=99.0), replace(SLEPT, status=RunStatus.ok)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([DONE], "ok"),
        ([BUSY], "timeout"),
        ([SLEPT, DONE, DONE], "ok"),  # it was the machine, and that is over
        ([SLEPT, DONE, SLEPT], "timeout"),  # it is this program
        ([SLEPT, SLEPT], None),  # it is the machine
    ],
)
def test_a_compiler_that_sleeps_is_the_programs_fault_only_where_another_one_compiles(
    ends: list[RunResult], status: str | None, monkeypatch: pytest.MonkeyPatch
):
    runs = iter(ends)
    box = Sandbox(JAIL)
    monkeypatch.setattr(Sandbox, "_run", lambda self, *a: next(runs))
    if status:
        assert box._compile("/usr/bin/g++", "int main() {}", "c++17").status == status
    else:
        with pytest.raises(VerifierFailure, match="harmless program"):
            box._compile("/usr/bin/g++", "int main() {}", "c++17")
    assert next(runs, None) is None
