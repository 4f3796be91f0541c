"""The files that a jailed process may touch (Landlock, Linux 5.13 and later).

Only listed paths are allowed, for the calling process and all that it starts; this cannot be undone. Newer kernels also forbid
TCP, abstract Unix sockets and signals to processes outside. Standard library only, because this runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG, TRUNCATE = 1 << 5, 1 << 8, 1 << 14
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_FILE | MAKE_REG
# version of the kernel's interface -> number of file rights that it knows
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
TCP, SCOPED = 0b11, 0b11  # bind and connect; abstract sockets and signals
PR_SET_NO_NEW_PRIVS = 38


def version() -> int:
    """Version of the kernel's Landlock interface; 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def restrict(allowed: Sequence[tuple[str, int]]) -> None:
    """Allow each path, with everything below it, its rights, and forbid the rest. Paths that do not exist are left out.

    Raises OSError where the kernel has no Landlock.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    abi = version()
    if not abi:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    handled = (1 << RIGHTS[min(abi, max(RIGHTS))]) - 1
    attributes = struct.pack("<QQQ", handled, TCP if abi >= 4 else 0, SCOPED if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(
        libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)), "landlock_create_ruleset"
    )
    try:
        for path, rights in allowed:
            _allow(libc, ruleset, path, rights & handled)
        zero = ctypes.c_ulong(0)
        _check(libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero), "prctl(PR_SET_NO_NEW_PRIVS)")
        _check(libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_FILES
        rule = struct.pack("<Qi", rights, place)
        _check(libc.syscall(ADD_RULE, ruleset, ctypes.c_int(1), rule, ctypes.c_uint(0)), f"landlock_add_rule({path})")
    finally:
        os.close(place)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what} failed")
    return result
