"""The system calls that a jailed process may make: an allow-list in classic BPF, for x86-64 and aarch64.

A call that is not listed fails with EPERM, and so does every call that a later kernel adds: sockets, ptrace, mounts,
namespaces, io_uring, kernel keys, shared memory. Numbers are those of the kernel's unistd_64.h and asm-generic/unistd.h. An
argument is compared by its low 32 bits, which is all that the kernel reads of the arguments used here. Standard library only,
because this runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
CLONE_THREAD, CLONE_NAMESPACES = 0x00010000, 0x7E020000

NUMBERS: dict[str, tuple[int | None, int | None]] = {  # name: (x86-64, aarch64)
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "fcntl": (72, 25), "ioctl": (16, 29), "fadvise64": (221, 223),
    "open": (2, None), "openat": (257, 56), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216),
    "mprotect": (10, 226), "madvise": (28, 233), "brk": (12, 214), "membarrier": (324, 283), "futex": (202, 98),
    "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "getcpu": (309, 168),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179),
    "uname": (63, 160), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getrandom": (318, 278),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "restart_syscall": (219, 128), "exit": (60, 93),
    "exit_group": (231, 94), "getrlimit": (97, 163), "setrlimit": (160, 164), "prlimit64": (302, 261), "prctl": (157, 167),
    "arch_prctl": (158, None), "set_tid_address": (218, 96), "umask": (95, 166), "wait4": (61, 260), "waitid": (247, 95),
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "execve": (59, 221),
    "fork": (57, None), "vfork": (58, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "ftruncate": (77, 46), "fallocate": (285, 47),
}  # fmt: skip
TO_COMPILE = (
    "execve", "fork", "vfork", "unlink", "unlinkat", "rename", "renameat", "renameat2", "chmod", "fchmod", "fchmodat",
    "ftruncate", "fallocate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArgumentRule:
    """A call that is allowed only while (its argument number `argument`) & `mask` is one of `values`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


def rules(profile: str, pid: int) -> dict[str, ArgumentRule | int | None]:
    """Map each call to None (allowed), an ArgumentRule, or the errno that it fails with.

    profile: "python", "native" (may also exec) or "compile" (may also start processes and write the files that Landlock
    allows).
    """
    special: dict[str, ArgumentRule | int | None] = {
        "kill": ArgumentRule(0, (pid,)),
        "tgkill": ArgumentRule(0, (pid,)),
        "prlimit64": ArgumentRule(0, (0,)),
        "prctl": ArgumentRule(0, (15, 16, 0x53564D41)),  # names of threads and of memory areas
        # TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
        "ioctl": ArgumentRule(1, (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)),
        "fcntl": ArgumentRule(1, (0, 1, 2, 3, 4, 1030)),  # no command that makes the kernel send signals
        "clone": ArgumentRule(0, (CLONE_THREAD,), CLONE_THREAD | CLONE_NAMESPACES),
        # a filter cannot see the flags of clone3, which lie in memory; libc then falls back to clone
        "clone3": errno.ENOSYS,
    }
    plain: dict[str, ArgumentRule | int | None] = {name: None for name in NUMBERS if name not in TO_COMPILE}
    if profile == "native":
        plain["execve"] = None
    elif profile == "compile":
        plain |= dict.fromkeys(TO_COMPILE)
        special["clone"] = ArgumentRule(0, (0,), CLONE_NAMESPACES)
    elif profile != "python":
        raise ValueError(f"profile {profile!r}: expected python, native or compile")
    return plain | special


def program(machine: str, profile: str, pid: int) -> bytes:
    """The filter program, 8 bytes an instruction. Raises OSError for a machine whose call numbers are not listed here."""
    if machine not in AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}: expected one of {', '.join(AUDIT_ARCH)}")
    denied = ERRNO | errno.EPERM
    code = [_op(LOAD, 4), _op(JUMP_EQUAL, AUDIT_ARCH[machine], 1, 0), _op(RETURN, KILL_PROCESS), _op(LOAD, 0)]
    code += [_op(JUMP_AT_LEAST, X32_BIT, 0, 1), _op(RETURN, denied)]
    column = list(AUDIT_ARCH).index(machine)
    for name, rule in rules(profile, pid).items():
        number = NUMBERS[name][column]
        if number is None:
            continue
        if isinstance(rule, ArgumentRule):
            block = _checked(rule, denied)
        else:
            block = [_op(RETURN, ALLOW if rule is None else ERRNO | rule)]
        code += [_op(JUMP_EQUAL, number, 0, len(block)), *block]
    return b"".join([*code, _op(RETURN, denied)])


def _checked(rule: ArgumentRule, denied: int) -> list[bytes]:
    code = [_op(LOAD, 16 + 8 * rule.argument), _op(AND, rule.mask)]
    for value in rule.values:
        code += [_op(JUMP_EQUAL, value, 0, 1), _op(RETURN, ALLOW)]
    return [*code, _op(RETURN, denied)]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def install_filter(profile: str) -> None:
    """Confine the calling thread and all that it starts; this cannot be undone.

    Raises OSError where the kernel has no seccomp filters.
    """
    code = program(platform.machine(), profile, os.getpid())
    instructions = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), header, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP) failed")
