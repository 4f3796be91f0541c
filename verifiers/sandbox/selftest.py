"""The self-test that a sandbox must pass before it is trusted: attacks with a known outcome, run inside it.

The probe reports its successes, and each is a failure of the sandbox. A canary file, a listening socket and this process are
set out as targets, so that the probe cannot fail merely because there was nothing to reach.
"""

from __future__ import annotations

import json
import os
import socket

from ...common.errors import UserError
from ...common.temporary_folder import TemporaryFolder
from .launcher import Limits, RunResult, RunStatus
from .sandbox import Sandbox

PROBE = """
import json, os, signal, socket, sys
canary, folder, port, name, pid = json.loads(sys.stdin.read())
achieved = []

def attempt(what, action):
    try:
        worked = action()
    except (OSError, ValueError):
        return
    if worked is not False:
        achieved.append(what)

def connect(family, address):
    with socket.socket(family) as probe:
        probe.connect(address)

def write(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.unlink(path)

def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)

attempt("reads files of others", lambda: open(canary).read())
attempt("lists folders of others", lambda: os.listdir(folder))
attempt("writes outside", lambda: write(os.path.join(folder, "written")))
for place in ("/tmp", "/var/tmp", "/dev/shm", "/scratch", os.getcwd(), os.path.dirname(os.__file__)):
    attempt("writes into " + place, lambda: write(os.path.join(place, "prolong-probe")))
attempt("reaches the loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("reaches abstract sockets", lambda: connect(socket.AF_UNIX, name))
attempt("makes sockets", lambda: socket.socket().close())
attempt("forks", fork)
attempt("inherits descriptors", lambda: any(map(is_open, range(5, 256))))
attempt("signals its launcher", lambda: os.kill(os.getppid(), 0) if os.getppid() else False)
attempt("signals processes of others", lambda: os.kill(pid, 0))
attempt("has an environment", lambda: len(os.environ) > 0)
attempt("reads the environment of others", lambda: open("/proc/%d/environ" % pid, "rb").read())
attempt("reads its launcher's environment", lambda: open("/proc/%d/environ" % os.getppid(), "rb").read())
attempt("is root", lambda: 0 in (os.getuid(), os.geteuid()))
attempt("executes programs", lambda: os.execv("/bin/true", ["true"]))
print(json.dumps(achieved))
"""
IS_OPEN = """
import os
def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
"""
PROVED = [
    "files of others unreadable",
    "nothing writable",
    "no network",
    "no abstract sockets",
    "no processes",
    "no programs",
    "signals to nobody",
    "empty environment",
    "not root",
    "no inherited descriptors",
]
BOUNDED = ["memory bounded", "CPU time bounded", "wall time bounded", "output bounded"]
QUICK = Limits(cpu_s=5, wall_s=10, memory_mb=512)


def prove(sandbox: Sandbox) -> list[str]:
    """Attack the sandbox and return the list of what it prevents.

    Raises UserError naming what it does not prevent; VerifierFailure or OSError if it cannot run at all.
    """
    achieved = _probe(sandbox)
    for what, result, expected in _resources(sandbox):
        if result.status is not expected:
            achieved.append(f"{what} (ended with {result.status} instead of {expected})")
    if achieved:
        raise UserError(f"the self-test failed: a program inside {', '.join(achieved)}")
    return PROVED + BOUNDED


def _probe(sandbox: Sandbox) -> list[str]:
    """The probe's successes. Raises UserError if it did not run to its end."""
    with TemporaryFolder("selftest") as folder, socket.socket() as listener:
        folder.chmod(0o777)
        canary = folder / "canary"
        canary.write_text("secret")
        canary.chmod(0o666)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as abstract:
            name = f"\0prolong-{os.urandom(8).hex()}"
            abstract.bind(name)
            abstract.listen()
            targets = [str(canary), str(folder), listener.getsockname()[1], name, os.getpid()]
            result = sandbox.run(IS_OPEN + PROBE, json.dumps(targets), QUICK)
        touched = ["changes files of others"] if canary.read_text() != "secret" or len(os.listdir(folder)) > 1 else []
    if result.status is not RunStatus.ok:
        raise UserError(
            f"the self-test's probe ended with {result.status}: {result.stderr.decode(errors='replace').strip()!r:.300}"
        )
    try:
        return json.loads(result.stdout) + touched
    except ValueError:
        return ["executes other programs in its own place", *touched]


def _resources(sandbox: Sandbox) -> list[tuple[str, RunResult, RunStatus]]:
    """(offence, how a program that tried it ended, how it must end)."""

    def run(code: str, limits: Limits) -> RunResult:
        return sandbox.run(code, "", limits)

    return [
        ("takes more memory than allowed", run("x = bytearray(1 << 30)", QUICK), RunStatus.error),
        ("waits longer than allowed", run("import signal; signal.pause()", Limits(wall_s=0.1)), RunStatus.timeout),
        ("writes more than allowed", run("while True: print('x' * 9999)", Limits(output_bytes=1 << 16)), RunStatus.output),
        ("computes longer than allowed", run("while True: pass", Limits(cpu_s=0.01, wall_s=0.2)), RunStatus.timeout),
    ]
