"""The launcher inside the sandbox: `python -m prolong.verifiers.sandbox.jail_server FD`. Forks one jailed process per request.

    Sandbox ==request + descriptors==> jail --fork--> rlimits, Landlock, seccomp --> untrusted program
       ^                                                                                  |
       +---------------------------- standard output, result ----------------------------+

The launcher never sees a byte of code, input or output: they travel in descriptors that the parent made, so that a program
learns nothing of another one from the memory that it inherits. The launcher is not root, and its children cannot signal or
trace it. It ends when the parent closes the socket. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any

from . import jailed_main, landlock, seccomp

MAX_REQUEST_BYTES = 1 << 16
DESCRIPTORS = 5  # standard input, output and error, payload, result
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 1, 4, 8, 24, 36
CAP_DAC_READ_SEARCH, CAP_LAST = 2, 63
PROGRAM = "program"  # name of the compiler's output in the scratch folder
WARM = ("bisect", "collections", "copy", "decimal", "fractions", "functools", "heapq", "itertools", "math", "re", "typing")


def main(fd: int) -> None:
    """Prepare, report "ready", serve. In a forked child, `serve_requests` returns the kind of program to run next."""
    with socket.socket(fileno=fd) as channel:
        setup = json.loads(channel.recv(MAX_REQUEST_BYTES))
        drop_privileges(setup["uid"], keep_search=setup["keep_search"])
        os.environ.clear()
        for name in (*WARM, *setup["preload"]):
            importlib.import_module(name)
        gc.collect()
        # children neither copy nor sweep the objects that exist now, which halves the time of their end
        gc.freeze()
        tell(channel, {"event": "ready"})
        kind = serve_requests(channel, setup)
    if kind is not None:
        jailed_main.run_payload(kind)
    elif setup["remove_scratch"]:
        empty_scratch(setup["scratch"])
        os.rmdir(setup["scratch"])


def drop_privileges(uid: int | None, *, keep_search: bool) -> None:
    """Become `uid` (None: keep the present user) and give up all capabilities.

    keep_search: keep the right to pass through folders such as /root on the way to this interpreter; Landlock still decides
    which files can be read. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, value: int) -> int:
        zero = ctypes.c_ulong(0)
        return libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero)

    prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1)
    if prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    if uid is not None:
        for capability in range(CAP_LAST + 1):
            prctl(PR_CAPBSET_DROP, capability)
        prctl(PR_SET_KEEPCAPS, int(keep_search))
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kept = 1 << CAP_DAC_READ_SEARCH if keep_search else 0
    header, sets = struct.pack("<Ii", 0x20080522, 0), struct.pack("<6I", kept, kept, 0, 0, 0, 0)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset failed")
    prctl(PR_SET_DUMPABLE, 0)


def serve_requests(channel: socket.socket, setup: dict[str, Any]) -> str | None:
    """Consumes requests; blocks on the next; unblocked by the parent; stops when it closes its end (None).

    In a forked, jailed child it returns the kind of program to run.
    """
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(channel, MAX_REQUEST_BYTES, DESCRIPTORS)
        except ConnectionError:
            return None
        if not data:
            return None
        request = json.loads(data)
        if request.get("kill"):  # the process to kill has ended meanwhile
            continue
        if request.get("put"):
            put_file(os.path.join(setup["scratch"], request["put"]), fds)
            tell(channel, {"event": "put"})
            continue
        if request.get("clean"):
            empty_scratch(setup["scratch"])
            tell(channel, {"event": "clean"})
            continue
        trouble_reader, trouble_writer = os.pipe()
        pid = os.fork()
        if not pid:
            channel.detach()  # another descriptor gets its number soon
            return enter(request, setup, fds, trouble_writer)
        for descriptor in (*fds, trouble_writer):
            os.close(descriptor)
        with os.fdopen(trouble_reader, "rb") as pipe:
            trouble = pipe.read()
        if trouble:
            os.waitpid(pid, 0)
            tell(channel, {"event": "failed", "why": trouble.decode(errors="replace")})
        else:
            tell(channel, supervise(channel, pid))


def tell(channel: socket.socket, event: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send an event to the parent. If the parent is gone, the next receive finds out."""
    with contextlib.suppress(ConnectionError):
        socket.send_fds(channel, [json.dumps(event).encode()], descriptors)


def supervise(channel: socket.socket, pid: int) -> dict[str, Any]:
    """Wait for the child's end, or end it when the parent says so or is gone; no process of the child survives this."""
    watched = os.pidfd_open(pid)
    # the parent finds the child's clocks by the descriptor, since a pid means another process there
    tell(channel, {"event": "started", "pid": pid}, (watched,))
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(channel, select.POLLIN)
    poll.poll()
    os.close(watched)
    # the process group exists from the child's setsid on; the zombie keeps the pid from being reused
    for target in (pid, -pid):
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _, status, usage = os.wait4(pid, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    while True:  # as the subreaper we have inherited the child's own children
        try:
            used = os.wait4(-1, 0)[2]
        except ChildProcessError:
            break
        cpu_s += used.ru_utime + used.ru_stime
    return {"event": "ended", "code": os.waitstatus_to_exitcode(status), "cpu_s": cpu_s}


def put_file(path: str, fds: list[int]) -> None:
    """Copy what the descriptor holds to a file that only a request which names it may read."""
    with open(fds[0], "rb") as source, open(path, "wb") as file:
        file.write(source.read())


def empty_scratch(scratch: str) -> None:
    """Remove the files that a compiler left."""
    for entry in os.scandir(scratch):
        os.unlink(entry.path)


# --- in the child -------------------------------------------------------------------------------------------------------


def enter(request: dict[str, Any], setup: dict[str, Any], fds: list[int], trouble: int) -> str:
    """Enter the jail. Does not return for compiled programs. A layer that fails writes its reason to `trouble` and ends the
    process.
    """
    try:
        os.setsid()
        if len(fds) != DESCRIPTORS:
            raise OSError(errno.EBADF, f"{len(fds)} descriptors, expected {DESCRIPTORS}")
        trouble = take_descriptors(fds, trouble)
        os.chdir("/")
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(errno.EPERM, "prctl(PR_SET_PDEATHSIG) failed")
        command = confine(request, setup)
        if command:
            os.execve(command[0], command, request["environment"])
        os.close(trouble)
    except BaseException as error:
        os.write(trouble, f"{type(error).__name__}: {error}"[:500].encode())
        os._exit(99)
    return request["kind"]


def take_descriptors(fds: list[int], trouble: int) -> int:
    """Move the five descriptors to 0 to 4 and `trouble` to 5, which exec closes. Close all others. Returns 5."""
    import fcntl

    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (*fds, trouble)]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < DESCRIPTORS)
    os.closerange(len(high), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return DESCRIPTORS


def confine(request: dict[str, Any], setup: dict[str, Any]) -> list[str]:
    """Apply limits, Landlock and seccomp, in this order. Returns the command to exec; [] to stay in this interpreter.

    setup["lenient"]: go on without a layer that this kernel lacks (allow_unsafe_code).
    """
    profile, scratch = request["profile"], setup["scratch"]
    files = [os.path.join(scratch, name) for name in request.get("files", ())]
    compiled = os.path.join(scratch, PROGRAM)
    of_system = landlock.READ | landlock.EXECUTE if profile == "compile" else landlock.READ
    allowed = [(path, of_system) for path in setup["system"]]
    allowed += [("/dev/null", landlock.READ | landlock.WRITE), ("/dev/urandom", landlock.READ)]
    allowed += [(path, landlock.READ) for path in files]
    if profile == "python":
        allowed += [(path, landlock.READ) for path in setup["python"]]
    elif profile == "native":
        allowed += [(path, landlock.READ | landlock.EXECUTE) for path in (compiled, *setup["loaders"])]
    else:
        allowed += [(scratch, landlock.WRITE)]
    limit(request["limits"])
    for name, layer in (("landlock", lambda: landlock.restrict(allowed)), ("seccomp", lambda: seccomp.install_filter(profile))):
        try:
            if name not in setup["without"]:
                layer()
        except OSError:
            if not setup["lenient"]:
                raise
    return [compiled, *files] if profile == "native" else request.get("command", [])


def limit(limits: dict[str, int]) -> None:
    """Set soft and hard limits, never above the hard limit in force.

    The hard limit of CPU time is a second more than the soft one, so that the first signal is SIGXCPU.
    """
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name.upper()}")
        most = resource.getrlimit(which)[1]
        hard = value + 1 if name == "cpu" else value
        if most != resource.RLIM_INFINITY:
            hard = min(hard, most)
        resource.setrlimit(which, (min(value, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
