"""Memory of frames is kept for the next ones.

By default glibc gives the memory of a large frame back to the kernel when it is freed, and the next frame pays for fresh pages:
that costs about as much as to check it.
"""

from __future__ import annotations

import ctypes

# of mallopt, in malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Free memory that the process keeps for itself, at most, at the end of each of glibc's heaps. Larger blocks than the second are
# given back at once.
KEPT_BYTES, LARGEST_KEPT_BYTES = 256 << 20, 16 << 20


def keep_freed_memory() -> None:
    """Let this process keep what it frees; nothing happens where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
