"""The disk of a real journal: an index of small records, and a log that holds the frames of groups.

    put, drop --> limit --> log: append, fdatasync --> index: records and places, one commit --> log: settle

A commit lasts when the index has it. Before that nothing points to what the log was given; after it the segments that lost
their last group may be written again. So the two need no common commit, and a kill between any two steps leaves the last commit
whole.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

from ...common.errors import JournalError, JournalFull
from . import records as r
from .disk import paged_bytes
from .group_log import FramePlace, GroupLog
from .lmdb_index import Index, LmdbIndex, no_room
from .segment_files import NO_ROOM, SegmentFiles

# Longer values under the key of a group are frames themselves: format 2 kept them in the index.
MAX_PLACE_BYTES = 64


class LoggedDisk:
    """An index and a log. One process may write, others may read meanwhile, each of them once."""

    def __init__(
        self,
        index: Index,
        log: GroupLog,
        *,
        where: str = "the journal",
        max_gb: float = float("inf"),
        readonly: bool = False,
        writer: ThreadPoolExecutor | None = None,
        lock: IO[str] | None = None,
    ) -> None:
        """`where` names it in errors. `writer` runs commits, `lock` keeps other writers out. See `open`.

        Raises JournalError when the log lacks what the index points to.
        """
        self._index, self._log, self._where, self._max_gb = index, log, where, max_gb
        self._readonly, self._writer, self._lock = readonly, writer, lock
        if not readonly:
            self._restore_log()
        self.num_bytes = self._count_bytes()

    @classmethod
    def open(cls, folder: Path | str, max_gb: float = 64.0, *, readonly: bool = False, background: bool = False) -> LoggedDisk:
        """Open the journal in `folder`, made if need be.

        `max_gb`: size at which commits that grow raise JournalFull. `background`: commits run in a thread of their own.
        Raises JournalError when it cannot be opened, or another process writes to it.
        """
        folder = Path(folder)
        with ExitStack() as opened:
            lock = None if readonly else opened.enter_context(_lock(folder))
            index = opened.enter_context(closing(LmdbIndex(folder, max_gb, readonly=readonly)))
            log = GroupLog(SegmentFiles(folder), max_bytes=max_gb * 2**30)
            # it starts its thread with the first commit
            writer = ThreadPoolExecutor(1, "journal") if background else None
            where = f"the journal {folder}"
            disk = cls(index, log, where=where, max_gb=max_gb, readonly=readonly, writer=writer, lock=lock)
            opened.pop_all()
        return disk

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        replaced = self._index.find({*put, *drop})
        growth = sum(len(value) if _is_group(key) else paged_bytes(value) for key, value in put.items())
        growth -= sum(_size(key, value, self._where) for key, value in replaced.items())
        if growth > 0 and self.num_bytes + growth > self._max_gb * 2**30:
            raise JournalFull(
                f"{self._where} holds {self.num_bytes / 2**30:.3f} GB, buffer.journal_gb = {self._max_gb:g}: "
                "nothing more is acknowledged until a checkpoint lets go of batches; save checkpoints more often, keep fewer "
                "(checkpoint.every, checkpoint.keep), or give it more room"
            )
        outdated = list(_places(replaced.items(), self._where))
        if self._writer is not None:
            return self._writer.submit(self._write, put, drop, outdated, growth)
        self._write(put, drop, outdated, growth)
        return None

    def _write(self, put: Mapping[bytes, bytes], drop: Collection[bytes], outdated: list[FramePlace], growth: int) -> None:
        groups = {key: value for key, value in put.items() if _is_group(key)}
        try:
            places = self._log.append(list(groups.values()))
        except OSError as error:
            if error.errno in NO_ROOM:
                raise no_room(self._where, error) from error
            raise JournalError(f"cannot write to the log of {self._where}: {error}") from error
        records = {key: value for key, value in put.items() if key not in groups}
        records |= {key: r.pack_record(place) for key, place in zip(groups, places, strict=True)}
        try:
            self._index.commit(records, drop)
        except JournalError:
            # it may have happened all the same: the index knows
            self._restore_log()
            self.num_bytes = self._count_bytes()
            raise
        self._log.settle(places, outdated)
        self.num_bytes += growth

    def _restore_log(self) -> None:
        self._log.restore(_places(self._index.items(r.GROUP), self._where))

    def _count_bytes(self) -> int:
        return sum(_size(key, value, self._where) for key, value in self._index.items(b""))

    def get(self, key: bytes) -> bytes | None:
        value = self._index.find([key]).get(key)
        while value is not None and _is_place(key, value):
            place = _place(key, value, self._where)
            try:
                found = self._log.read(place)
            except OSError as error:
                raise JournalError(f"{self._where}, record {key!r}: cannot read segment {place.segment}: {error}") from error
            if found is not None:
                return found
            # a live run dropped the group meanwhile, and wrote others there: then the index says so
            before, value = value, self._index.find([key]).get(key)
            if value == before:
                raise JournalError(
                    f"{self._where}, record {key!r}: the {place.num_bytes} bytes at {place.offset} in segment {place.segment} "
                    "of its log are not those that were written: the disk lost or changed some, or the file was not copied "
                    "with the others"
                )
        return value

    def keys(self, prefix: bytes) -> list[bytes]:
        return self._index.keys(prefix)

    def defects(self) -> list[str]:
        return self._log.defects(_places(self._index.items(r.GROUP), self._where))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.shutdown()
        if not self._readonly:
            self._log.close()
        self._index.close()
        if self._lock is not None:
            self._lock.close()


def _is_group(key: bytes) -> bool:
    return key[:1] == r.GROUP


def _is_place(key: bytes, value: bytes) -> bool:
    return _is_group(key) and len(value) <= MAX_PLACE_BYTES


def _place(key: bytes, value: bytes, where: str) -> FramePlace:
    return r.unpack_record(value, FramePlace, f"{where}, record {key!r}")


def _places(items: Iterable[tuple[bytes, bytes]], where: str) -> Iterator[FramePlace]:
    return (_place(key, value, where) for key, value in items if _is_place(key, value))


def _size(key: bytes, value: bytes, where: str) -> int:
    """How much of the limit a value takes that the index has."""
    return _place(key, value, where).num_bytes if _is_place(key, value) else paged_bytes(value)


def _lock(folder: Path) -> IO[str]:
    """Keep other writers out: two buffers would each undo the other's commits. The lock ends with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "writer.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise JournalError(f"the journal {folder} is being written by another buffer; stop it first") from None
    return lock
