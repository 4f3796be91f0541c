"""The files of the group log: frames-0.bin, frames-1.bin ... in the journal's folder.

The log decides what is written where; here are the system calls. Space is taken before it is written, so that a full disk shows
while nothing is half done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

# a file grows by this much at a time: the file system then finds room once, and not with every commit
GROW_BYTES = 16 << 20
MAX_PARTS = 1024  # of one call of pwritev: IOV_MAX
# the file system, the user's share of it, or a file may grow no further
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PREFIX, SUFFIX = "frames-", ".bin"


class SegmentStore(Protocol):
    """Numbered files that are written from one thread, and read from any. Every method raises OSError."""

    def sizes(self) -> dict[int, int]:
        """The size of every file that exists, by its number."""
        ...

    def reserve(self, number: int, end: int) -> int:
        """Make room for the first `end` bytes of a file, which is created if need be; returns its size then.

        When there is no room (NO_ROOM), nothing has changed.
        """
        ...

    def write(self, number: int, offset: int, parts: Sequence[bytes]) -> None:
        """Write `parts` one after the other, from `offset` on."""
        ...

    def sync(self, number: int) -> None:
        """Return when all that was written to a file is on the disk."""
        ...

    def read(self, number: int, offset: int, num_bytes: int) -> bytes:
        """These bytes of a file; fewer where it ends before, none where it does not exist."""
        ...

    def truncate(self, number: int, size: int) -> None:
        """Give back the space after the first `size` bytes."""
        ...

    def remove(self, number: int) -> None:
        """Remove a file."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


class SegmentFiles:
    """The real ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # the file that was written last: its number and its descriptor
        self._open: tuple[int, int] | None = None

    def path(self, number: int) -> Path:
        """The name of a file."""
        return self._folder / f"{PREFIX}{number}{SUFFIX}"

    def sizes(self) -> dict[int, int]:
        found = ((path, path.name[len(PREFIX) : -len(SUFFIX)]) for path in self._folder.glob(f"{PREFIX}*{SUFFIX}"))
        return {int(number): path.stat().st_size for path, number in found if number.isdecimal()}

    def reserve(self, number: int, end: int) -> int:
        descriptor = self._descriptor(number)
        size = os.fstat(descriptor).st_size
        if size >= end:
            return size
        for new_size in (max(end, size + GROW_BYTES), end):
            try:
                os.posix_fallocate(descriptor, size, new_size - size)
            except OSError as error:
                os.ftruncate(descriptor, size)
                if error.errno not in NO_ROOM or new_size == end:
                    raise
            else:
                return new_size
        raise AssertionError("the loop returns or raises")

    def write(self, number: int, offset: int, parts: Sequence[bytes]) -> None:
        descriptor = self._descriptor(number)
        for first in range(0, len(parts), MAX_PARTS):
            waiting = [memoryview(part) for part in parts[first : first + MAX_PARTS] if len(part)]
            while waiting:
                num_written = os.pwritev(descriptor, waiting, offset)
                offset += num_written
                while waiting and num_written >= len(waiting[0]):
                    num_written -= len(waiting.pop(0))
                if num_written:
                    waiting[0] = waiting[0][num_written:]

    def sync(self, number: int) -> None:
        os.fdatasync(self._descriptor(number))

    def read(self, number: int, offset: int, num_bytes: int) -> bytes:
        try:
            descriptor = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, num_bytes, offset)
        finally:
            os.close(descriptor)

    def truncate(self, number: int, size: int) -> None:
        os.truncate(self.path(number), size)

    def remove(self, number: int) -> None:
        if self._open is not None and self._open[0] == number:
            self.close()
        self.path(number).unlink(missing_ok=True)

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
        self._open = None

    def _descriptor(self, number: int) -> int:
        """The file, open for writing; the name of one that is created here is on the disk then."""
        if self._open is None or self._open[0] != number:
            self.close()
            created = not self.path(number).exists()
            self._open = number, os.open(self.path(number), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if created:
                _sync_folder(self._folder)
        return self._open[1]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
