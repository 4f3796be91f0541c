"""The buffer's disk: it survives the buffer, fills up, fails, and forgets what was not synced when the power goes.

The shipped LoggedDisk and GroupLog run over simulated files and a simulated index, in segments so small that they are reused
all the time. A commit of LMDB is whole or nothing, even when it is torn: the old root stays until the new pages are written.
Files have no such promise: of what was written and not synced any part may last.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from prolong.buffer.journal.group_log import GroupLog
from prolong.buffer.journal.logged_disk import LoggedDisk
from prolong.common.errors import JournalError, JournalFull

SECTOR_BYTES = 32  # lasts or not, as a whole
PAGE_BYTES, SEGMENT_BYTES = 64, 2048
POWER_CUT = 0.5  # share of deaths at which the machine dies as well


class Crashed(Exception):
    """The process died here."""


class DiskBroken(JournalError):
    """A commit that the disk refused."""


class FaultyDisk:
    """What is there from one life of the buffer to the next. `watch` is called with every commit that lasts."""

    def __init__(self, watch: Callable[[Mapping[bytes, bytes], Collection[bytes]], None], seed: int = 0) -> None:
        self.is_full = False
        self.doom = ""  # fate of the next commit: "torn", "written", "lost", "kept"
        self.rng = random.Random(f"disk {seed}")
        self.files, self.index = FaultyFiles(self), FaultyIndex(self, watch)

    def open(self) -> LoggedDisk:
        """The disk as the next buffer finds it."""
        if self.rng.random() < POWER_CUT:
            self.files.lose_power()
        log = GroupLog(self.files, segment_bytes=SEGMENT_BYTES, page_bytes=PAGE_BYTES)
        return LoggedDisk(self.index, log, where="the simulated journal")

    def dies_here(self, chance: float) -> bool:
        """Whether a torn commit ends at this point of it."""
        if self.doom != "torn" or self.rng.random() >= chance:
            return False
        self.doom = ""
        return True


class FaultyFiles:
    """Numbered files, each with the content that the process sees and the one that a power cut would leave."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk
        self._seen: dict[int, bytearray] = {}
        self._lasting: dict[int, bytearray] = {}
        self._unsynced: set[tuple[int, int]] = set()  # (file, sector)

    def sizes(self) -> dict[int, int]:
        return {number: len(content) for number, content in self._seen.items()}

    def reserve(self, number: int, end: int) -> int:
        size = len(self._seen.get(number, b""))
        if size < end and self._disk.is_full:
            raise OSError(errno.ENOSPC, "the simulated disk is full")
        for content in (self._seen, self._lasting):
            content.setdefault(number, bytearray()).extend(bytes(max(0, end - size)))
        return max(size, end)

    def write(self, number: int, offset: int, parts: Sequence[bytes]) -> None:
        written = b"".join(map(bytes, parts))
        dies = self._disk.dies_here(0.4)
        if dies:
            written = written[: self._disk.rng.randrange(len(written) + 1)]
        self._seen[number][offset : offset + len(written)] = written
        sectors = range(offset // SECTOR_BYTES, -(-(offset + len(written)) // SECTOR_BYTES))
        self._unsynced |= {(number, sector) for sector in sectors}
        if dies or self._disk.dies_here(0.4):
            raise Crashed("while the log was written")

    def sync(self, number: int) -> None:
        for file, sector in [each for each in self._unsynced if each[0] == number]:
            self._last(file, sector)
        if self._disk.dies_here(0.4):
            raise Crashed("after the log was written")

    def _last(self, number: int, sector: int) -> None:
        self._unsynced.discard((number, sector))
        where = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
        self._lasting[number][where] = self._seen[number][where]

    def lose_power(self) -> None:
        """The machine dies: any part of what was not synced is on the disk all the same."""
        for number, sector in sorted(self._unsynced):
            if self._disk.rng.random() < 0.5:
                self._last(number, sector)
        self._unsynced.clear()
        self._seen = {number: bytearray(content) for number, content in self._lasting.items()}

    def read(self, number: int, offset: int, num_bytes: int) -> bytes:
        return bytes(self._seen.get(number, b"")[offset : offset + num_bytes])

    def truncate(self, number: int, size: int) -> None:
        raise AssertionError("no simulated buffer closes its journal")

    def remove(self, number: int) -> None:
        self._unsynced = {each for each in self._unsynced if each[0] != number}
        del self._seen[number], self._lasting[number]

    def close(self) -> None:
        raise AssertionError("no simulated buffer closes its journal")


class FaultyIndex:
    """Keys and values in memory."""

    def __init__(self, disk: FaultyDisk, watch: Callable[[Mapping[bytes, bytes], Collection[bytes]], None]) -> None:
        self._disk, self._watch = disk, watch
        self.values: dict[bytes, bytes] = {}

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        if self._disk.is_full:
            raise JournalFull("the simulated disk is full")
        doom, self._disk.doom = self._disk.doom, ""
        if doom not in ("torn", "lost"):
            for key in drop:
                self.values.pop(key, None)
            self.values |= put
            self._watch(put, drop)
        if doom in ("torn", "written"):
            raise Crashed(doom)
        if doom:
            raise DiskBroken(f"the simulated disk failed, the commit is {doom}")

    def find(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        return {key: self.values[key] for key in keys if key in self.values}

    def keys(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self.values if key.startswith(prefix))

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return ((key, self.values[key]) for key in self.keys(prefix))

    def close(self) -> None:
        return None
