"""The filters of every machine, run on any machine by an interpreter of BPF written here."""

import re
import struct
from pathlib import Path

import pytest
from prolong.verifiers.sandbox import seccomp

ALLOW, DENIED, KILLED = seccomp.ALLOW, seccomp.ERRNO | 1, seccomp.KILL_PROCESS
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
MACHINES = sorted(seccomp.AUDIT_ARCH)
PID = 4242


def verdict(code: bytes, number: int, arch: int, *arguments: int) -> int:
    """The kernel's action for a system call: classic BPF over struct seccomp_data, instruction by instruction."""
    call = struct.pack("<IIQ6Q", number, arch, 0, *[*arguments, *[0] * 6][:6])
    accumulator, at = 0, 0
    while True:
        op, if_true, if_false, value = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        if op == 0x06:
            return value
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", call, value)
        elif op == 0x54:
            accumulator &= value
        else:
            at += if_true if {0x15: accumulator == value, 0x35: accumulator >= value}[op] else if_false


def ask(machine: str, profile: str, name: str, *arguments: int) -> int:
    number = seccomp.NUMBERS[name][list(seccomp.AUDIT_ARCH).index(machine)]
    assert number is not None
    return verdict(seccomp.program(machine, profile, PID), number, seccomp.AUDIT_ARCH[machine], *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_programs_may_compute_and_no_more(machine: str):
    for name in ("read", "write", "mmap", "futex", "openat", "exit_group", "getrandom"):
        assert ask(machine, "python", name) == ALLOW
    for name in ("execve", "unlinkat", "renameat2", "ftruncate", "fchmod"):
        assert ask(machine, "python", name) == DENIED
        assert ask(machine, "compile", name) == ALLOW
    assert (ask(machine, "native", "execve"), ask(machine, "native", "unlinkat")) == (ALLOW, DENIED)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("profile", ["python", "native", "compile"])
def test_whatever_is_not_listed_is_denied(machine: str, profile: str):
    column = list(seccomp.AUDIT_ARCH).index(machine)
    listed = {numbers[column] for numbers in seccomp.NUMBERS.values()}
    code = seccomp.program(machine, profile, PID)
    for number in set(range(600)) - listed:
        assert verdict(code, number, seccomp.AUDIT_ARCH[machine]) == DENIED
    for number in range(600):
        assert verdict(code, number, 0x40000003) == KILLED  # the 32-bit interface
        assert verdict(code, 0x40000000 + number, seccomp.AUDIT_ARCH[machine]) == DENIED  # the x32 interface


@pytest.mark.parametrize("machine", MACHINES)
def test_signals_reach_the_sender_alone(machine: str):
    for name in ("kill", "tgkill"):
        assert ask(machine, "python", name, PID, 9) == ALLOW
        for target in (0, 1, PID + 1, 2**32 - 1, 2**64 - PID):
            assert ask(machine, "python", name, target, 9) == DENIED


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_are_allowed_processes_and_namespaces_are_not(machine: str):
    thread, new_user, fork = 0x3D0F00, 0x10000000, 17
    assert ask(machine, "python", "clone", thread) == ALLOW
    assert ask(machine, "python", "clone", fork) == DENIED
    assert ask(machine, "python", "clone", thread | new_user) == DENIED
    assert ask(machine, "compile", "clone", fork) == ALLOW
    assert ask(machine, "compile", "clone", fork | new_user) == DENIED
    assert ask(machine, "compile", "clone3") == seccomp.ERRNO | 38


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_are_looked_at(machine: str):
    assert ask(machine, "python", "ioctl", 0, 0x5401) == ALLOW  # TCGETS
    assert ask(machine, "python", "ioctl", 0, 0x5412) == DENIED  # TIOCSTI
    assert ask(machine, "python", "fcntl", 0, 8) == DENIED  # F_SETOWN
    assert (ask(machine, "python", "prlimit64", 0), ask(machine, "python", "prlimit64", 1)) == (ALLOW, DENIED)
    assert (ask(machine, "python", "prctl", 15), ask(machine, "python", "prctl", 1)) == (ALLOW, DENIED)


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str):
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed (Debian: linux-libc-dev)")
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text(), re.MULTILINE)
    numbers = {name: int(number) for name, number in reversed(found)}
    column = list(seccomp.AUDIT_ARCH).index(machine)
    for name, listed in seccomp.NUMBERS.items():
        generic = "fstatat" if (name, machine) == ("newfstatat", "aarch64") else name
        assert listed[column] == numbers.get(generic), name


def test_unknown_machines_and_profiles_are_refused():
    with pytest.raises(OSError, match="no seccomp filter for riscv64"):
        seccomp.program("riscv64", "python", PID)
    with pytest.raises(ValueError, match="expected python, native or compile"):
        seccomp.rules("shell", PID)
