"""How backends are put together; attacks on them are in tests/integration/test_sandbox_attacks.py."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.verifiers.sandbox import jail_server, launcher, sandbox
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
