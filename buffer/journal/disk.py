"""The seam to the disk: keys and values, changed by commits that happen whole or not at all, and last once they are done.

`LoggedDisk` is the real one; `MemoryDisk` serves runs without a journal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sized
from concurrent.futures import Future
from typing import Protocol

PAGE_BYTES = 4096


class Disk(Protocol):
    """Storage as the journal uses it, from one thread."""

    num_bytes: int  # of all values, as the limit of the journal counts them

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        """Delete the keys of `drop`, then write `put`; neither may be changed afterwards.

        The commit is durable when this returns None; else when the future is done, and the next commit must wait for it.
        Raises, here or in the future: JournalFull (nothing happened), JournalError.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value of a key. Raises JournalError when it cannot be read."""
        ...

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that begin with `prefix`, ascending."""
        ...

    def defects(self) -> list[str]:
        """What is wrong with how the values lie on the disk; their content is not looked at."""
        ...

    def close(self) -> None:
        """Wait for a commit under way, then release the disk."""
        ...


def paged_bytes(value: Sized) -> int:
    """The approximate size of a value on the disk."""
    return -(-len(value) // PAGE_BYTES) * PAGE_BYTES


class MemoryDisk:
    """The same contract in memory."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self.num_bytes = 0

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        for key in drop:
            self.num_bytes -= paged_bytes(self._values.pop(key, b""))
        for key, value in put.items():
            self.num_bytes += paged_bytes(value) - paged_bytes(self._values.get(key, b""))
            # not a copy: the frame of a group is in memory as long as the group
            self._values[key] = value

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self._values if key.startswith(prefix))

    def defects(self) -> list[str]:
        return []

    def close(self) -> None:
        return None
