"""Attacks on the sandbox, each under every backend that this machine has: contained, and afterwards everything is in order."""

import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.verifiers.sandbox.launcher import Limits
from prolong.verifiers.sandbox.opening import open_sandbox
from prolong.verifiers.sandbox.sandbox import BUBBLEWRAP, FIRST_UID, JAIL, NUM_UIDS, Backend, Sandbox

from tests.support.runs import wait_until
from tests.support.sandboxes import BACKENDS, Targets, assert_in_order, opened, targets

BRIEF = Limits(cpu_s=1, wall_s=4, memory_mb=512, output_bytes=1 << 18)
# where the end is not one of time: a busy machine takes more than a second to fill the memory
AMPLE = replace(BRIEF, cpu_s=20, wall_s=40)
PRELUDE = """
import ctypes, json, os, signal, socket, struct, sys, threading, time
SECRET, FOLDER, PORT, ABSTRACT, UNIX, PARENT = json.loads(sys.stdin.read())
libc = ctypes.CDLL(None, use_errno=True)

def attempt(action):
    try:
        result = action()
    except (OSError, ValueError, RuntimeError, MemoryError):
        return
    print("ACHIEVED", result, flush=True)

def syscall(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def connect(family, address):
    with socket.socket(family) as one:
        one.connect(address)

def write(path):
    with open(path, "wb") as file:
        file.write(b"x")

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
"""
QUIET = {  # name -> attempts that print ACHIEVED if they succeed, which none may; the program ends by itself
    "read a secret": "attempt(lambda: open(SECRET).read())",
    "list a folder": "attempt(lambda: os.listdir(FOLDER))",
    "read what is nobody's business": """
for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/proc/self/maps", "/proc/1/cmdline"):
    attempt(lambda: open(path).read(1))
for path in ("/", "/tmp", "/home", "/root", "/proc", "/dev", "/work"):
    attempt(lambda: os.listdir(path))
""",
    "read through a path of one's own": """
attempt(lambda: os.symlink(SECRET, "/scratch/link"))
attempt(lambda: os.link(SECRET, FOLDER + "/link"))
attempt(lambda: open("/proc/self/root" + SECRET).read())
attempt(lambda: open("/usr/../" + SECRET).read())
""",
    "read environments": """
for pid in ("self", 1, os.getppid(), PARENT):
    attempt(lambda: open(f"/proc/{pid}/environ", "rb").read())
if os.environ or os.environb:
    print("ACHIEVED", os.environ)
""",
    "write outside": """
for place in (SECRET, FOLDER + "/x", "/tmp/x", "/var/tmp/x", "/dev/shm/x", "/scratch/x", "/usr/x", os.__file__):
    attempt(lambda: write(place))
for action in (lambda: os.unlink(SECRET), lambda: os.truncate(SECRET, 0), lambda: os.chmod(SECRET, 0)):
    attempt(action)
attempt(lambda: os.mkdir(FOLDER + "/d"))
for action in (lambda: os.rename(SECRET, FOLDER + "/y"), lambda: os.utime(SECRET), lambda: os.mkfifo(FOLDER + "/p")):
    attempt(action)
""",
    "fill the disk": """
for place in ("/tmp", "/scratch", "/dev/shm", "/dev", FOLDER, os.getcwd()):
    attempt(lambda: os.posix_fallocate(os.open(place + "/big", os.O_CREAT | os.O_WRONLY), 0, 1 << 30))
    for number in range(100):
        attempt(lambda: os.open(f"{place}/many-{number}", os.O_CREAT))
""",
    "write into given descriptors": """
for descriptor in (0, 3, 4):
    attempt(lambda: os.ftruncate(descriptor, 1 << 30))
attempt(lambda: os.write(0, b"x"))
""",
    "use descriptors that were inherited": """
attempt(lambda: [os.fstat(descriptor).st_mode for descriptor in range(5, 60)] and None)
for descriptor in range(5, 4096):
    attempt(lambda: os.fstat(descriptor))
""",
    "reach the network": """
attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)))
attempt(lambda: connect(socket.AF_INET, ("1.1.1.1", 53)))
attempt(lambda: connect(socket.AF_UNIX, ABSTRACT))
attempt(lambda: connect(socket.AF_UNIX, UNIX))
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt(lambda: socket.socketpair())
""",
    "signal others": """
for pid in (PARENT, os.getppid(), 1, -1):
    if pid:
        attempt(lambda: os.kill(pid, signal.SIGKILL))
attempt(lambda: os.killpg(os.getpgid(0), 0))
attempt(lambda: syscall(424, os.open("/dev/null", 0), 9, None, 0))  # pidfd_send_signal
attempt(lambda: syscall(434, PARENT, 0))  # pidfd_open
attempt(lambda: __import__("fcntl").fcntl(0, 8, os.getppid() or 1))  # F_SETOWN
attempt(lambda: __import__("resource").prlimit(os.getppid() or 1, 7, (3, 3)))
""",
    "trace others": """
for pid in (PARENT, os.getppid(), 1):
    attempt(lambda: syscall(101 if os.uname().machine == "x86_64" else 117, 16, pid, 0, 0))
    local = ctypes.create_string_buffer(8)
    vector = Vector(ctypes.addressof(local), 8)
    number = 310 if os.uname().machine == "x86_64" else 270
    attempt(lambda: syscall(number, pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0))
    attempt(lambda: open(f"/proc/{pid}/mem", "rb+"))
""",
    "start processes": """
attempt(os.fork)
attempt(lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt(lambda: os.execv("/bin/true", ["true"]))
attempt(lambda: __import__("subprocess").run(["/bin/true"]))
attempt(lambda: syscall(435, ctypes.create_string_buffer(88), 88))  # clone3
attempt(os.setsid)
attempt(lambda: os.setpgid(0, 0))
""",
    "become somebody": """
for action in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    attempt(action)
if 0 in (os.getuid(), os.geteuid()):
    print("ACHIEVED root")
""",
    "make namespaces and mounts": """
for flags in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x7E020000):
    attempt(lambda: syscall(272 if os.uname().machine == "x86_64" else 97, flags))  # unshare
attempt(lambda: os.chroot("/usr"))
attempt(lambda: syscall(165 if os.uname().machine == "x86_64" else 40, b"none", b"/usr", b"tmpfs", 0, None))
attempt(lambda: syscall(430, b"proc", 0))  # fsopen
attempt(lambda: syscall(428, -100, b"/", 1))  # open_tree
""",
    "call the kernel's back doors": """
x86 = os.uname().machine == "x86_64"
ring = ctypes.create_string_buffer(120)
attempt(lambda: syscall(425, 8, ring))  # io_uring_setup
attempt(lambda: syscall(319 if x86 else 279, b"x", 0))  # memfd_create
for number in ((321, 298, 250, 323, 29, 304, 317, 246, 169) if x86 else (280, 241, 219, 282, 194, 265, 277, 104, 142)):
    # bpf, perf, keyctl, userfaultfd, shmget, by handle, seccomp, kexec, reboot
    attempt(lambda: syscall(number, 0, 0, 0, 0, 0))
if x86:
    attempt(lambda: syscall(0x40000000 + 39))  # getpid of the x32 interface
""",
    "bomb with threads": """
started = 0
def wait():
    time.sleep(60)
try:
    while True:
        threading.Thread(target=wait, daemon=True).start()
        started += 1
except RuntimeError:
    pass
if started > 64:
    print("ACHIEVED", started)
sys.stdout.flush()
os._exit(0)
""",
}
LOUD = {  # name -> (program, limits, how it must end)
    "bomb with processes": ("while True: os.fork()", AMPLE, {"error"}),
    "bomb with memory": ("x = [bytearray(1 << 20) for _ in range(1 << 20)]", AMPLE, {"error", "signal"}),
    "bomb with memory in threads": (
        "def eat():\n    x = [bytearray(1 << 20) for _ in range(1 << 20)]\n"
        "for one in [threading.Thread(target=eat) for _ in range(8)]: one.start()",
        AMPLE,
        {"ok", "error", "signal"},
    ),
    "map memory without end": (
        "import mmap\nkept = []\nwhile True: kept.append(mmap.mmap(-1, 1 << 26))",
        AMPLE,
        {"error", "signal"},
    ),
    "loop": ("while True: pass", BRIEF, {"timeout"}),
    "loop in C": ("sum(range(1 << 60))", Limits(wall_s=0.3), {"timeout"}),
    "sleep": ("time.sleep(60)", Limits(wall_s=0.2), {"timeout"}),
    "ignore every signal": (
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)\n"
        "while True: pass",
        Limits(cpu_s=1, wall_s=10),
        {"timeout"},
    ),
    "stop oneself": ("os.kill(os.getpid(), signal.SIGSTOP)", Limits(wall_s=0.2), {"timeout"}),
    "flood standard output": ("while True: os.write(1, b'x' * 65536)", AMPLE, {"output"}),
    "flood standard error": ("while True: os.write(2, b'x' * 65536)", AMPLE, {"output"}),
    "flood the result": ("while True: os.write(4, b'x' * 65536)", AMPLE, {"output"}),
    "close everything and stay": ("os.closerange(0, 64)\ntime.sleep(60)", Limits(wall_s=0.2), {"timeout"}),
    "crash": ("ctypes.string_at(0)", AMPLE, {"signal"}),
    "recurse in C": ("x = []\nfor _ in range(10 ** 5): x = [x]\nrepr(x)", AMPLE, {"error", "signal"}),
    "source that eats the compiler": ("import ast; ast.parse('(' * 10 ** 6)", AMPLE, {"error", "signal", "output"}),
    "daemon by double fork": ("if not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(60)", AMPLE, {"error"}),
    "linger after the end": ("import atexit\natexit.register(time.sleep, 60)", Limits(wall_s=0.3), {"timeout"}),
}
REACHABLE_BARE = [  # without Landlock and seccomp these do succeed: the attacks are real
    *("read a secret", "list a folder", "read what is nobody's business", "read environments"),
    *("reach the network", "start processes", "call the kernel's back doors", "fill the disk", "write outside"),
]


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(BACKENDS[request.param]) as sandbox:
        yield sandbox


@pytest.fixture
def aims(tmp_path) -> Iterator[Targets]:
    with targets(tmp_path) as found:
        yield found


@pytest.mark.parametrize("name", QUIET)
def test_nothing_is_achieved_by_trying_to(name: str, box: Sandbox, aims: Targets):
    result = box.run(PRELUDE + QUIET[name], aims.as_json(), Limits(memory_mb=1024))
    assert (result.status, result.stdout) == ("ok", b""), result
    assert_in_order(box, aims)


@pytest.mark.parametrize("name", LOUD)
def test_a_program_is_ended_when_it_would(name: str, box: Sandbox, aims: Targets):
    code, limits, ends = LOUD[name]
    result = box.run(PRELUDE + code, aims.as_json(), limits)
    assert result.status in ends, result
    assert result.seconds - result.waited_s < limits.wall_s + 15
    assert len(result.stdout) + len(result.result) <= 2 * limits.output_bytes
    assert_in_order(box, aims)


def test_the_attacks_are_real(aims: Targets):
    """The same attempts succeed where layers of the jail are missing, so that their failure elsewhere proves something."""
    bare = Sandbox(Backend(name="bare", without=("landlock", "seccomp")))
    try:
        succeeded = [name for name in REACHABLE_BARE if b"ACHIEVED" in bare.run(PRELUDE + QUIET[name], aims.as_json()).stdout]
    finally:
        bare.close()
    assert sorted(succeeded) == sorted(REACHABLE_BARE)


@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_the_self_test_misses_each_layer_of_the_jail(layer: str):
    with pytest.raises(UserError, match="the self-test failed"):
        open_sandbox(backends=(Backend(name="weak", without=(layer,)),))


def test_a_dead_launcher_takes_its_program_along_and_is_replaced(box: Sandbox, aims: Targets):
    outermost = psutil.Process(box.pid)
    family = [outermost, *outermost.children(recursive=True)]
    launcher = next(process for process in family if process.name() != "bwrap")
    restarts = box.restarts
    programs: list[psutil.Process] = []

    def kill() -> None:
        programs.extend(wait_until("the program", lambda: launcher.children(), 60))
        launcher.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(VerifierFailure, match="launcher"):
        box.run("while True: pass", "", Limits(cpu_s=100, wall_s=100))
    killer.join()
    wait_until("the end of all", lambda: not any(process.is_running() for process in (*family, *programs)), 60)
    assert_in_order(box, aims)
    assert box.restarts == restarts + 1


# what owns a sandbox; forked from a process with threads, it could hang
OWNER = """
import sys
from prolong.verifiers.sandbox.launcher import Limits
from prolong.verifiers.sandbox.sandbox import BUBBLEWRAP, JAIL, Sandbox
backend = next(backend for backend in (BUBBLEWRAP, JAIL) if backend.name == sys.argv[1])
Sandbox(backend).run("while True: pass", "", Limits(cpu_s=200, wall_s=200))
"""


def test_a_dead_owner_takes_everything_along(box: Sandbox):
    """The pool kills a worker without asking it: launcher and program end by themselves."""
    owner = psutil.Popen([sys.executable, "-c", OWNER, box.backend])

    def running() -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            family = owner.children(recursive=True)
            return family if any(process.cpu_times().user > 0.3 for process in family[-1:]) else []
        return []

    try:
        family = wait_until("a program that runs", running, 120)
    finally:
        owner.kill()
        owner.wait(60)
    wait_until("the end of all", lambda: not any(process.is_running() for process in family), 60)
    assert not left_by(FIRST_UID + owner.pid % NUM_UIDS)


def left_by(uid: int) -> list[Path]:
    """The scratch folders of this user; those of others come and go meanwhile."""
    found = []
    for folder in Path(tempfile.gettempdir()).glob("prolong-sandbox-*"):
        with suppress(FileNotFoundError):
            found += [folder] if folder.stat().st_uid == uid else []
    return found


def test_without_a_backend_there_is_no_sandbox_but_by_leave(monkeypatch: pytest.MonkeyPatch):
    broken = (Backend(name="broken", without=("landlock", "seccomp")),)
    with pytest.raises(UserError, match=r"apt-get install bubblewrap.*allow_unsafe_code"):
        open_sandbox(backends=broken)
    sandbox = open_sandbox(backends=broken, allow_unsafe=True)
    try:
        assert (sandbox.backend, sandbox.unsafe, sandbox.run("print(1)").stdout) == ("unsafe", True, b"1\n")
    finally:
        sandbox.close()


def test_a_missing_bwrap_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="bubblewrap: bwrap is not installed"):
        open_sandbox(backends=(BUBBLEWRAP,))
    with opened(JAIL) as sandbox:
        assert sandbox.backend == "jail"
