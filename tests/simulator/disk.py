"""The buffer's disk: survives the buffer, fills up, fails.

A commit of LMDB is whole or nothing, even when it is torn: the old root stays until the new pages are written. So a torn write
is a commit that never happened, or one that lasted although its writer never learned of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from prolong.buffer.journal.disk import MemoryDisk
from prolong.common.errors import JournalError, JournalFull


class Crashed(Exception):
    """The process died here."""


class DiskBroken(JournalError):
    """A commit that the disk refused."""


class FaultyDisk(MemoryDisk):
    """`watch` is called with every commit that lasts."""

    def __init__(self, watch: Callable[[Mapping[bytes, bytes], Collection[bytes]], None]) -> None:
        super().__init__()
        self.is_full = False
        self.doom = ""  # fate of the next commit: "torn", "written", "lost", "kept"
        self._watch = watch

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        if self.is_full:
            raise JournalFull("the simulated disk is full")
        doom, self.doom = self.doom, ""
        if doom not in ("torn", "lost"):
            super().commit(put, drop)
            self._watch(put, drop)
        if doom in ("torn", "written"):
            raise Crashed(doom)
        if doom:
            raise DiskBroken(f"the simulated disk failed, the commit is {doom}")
