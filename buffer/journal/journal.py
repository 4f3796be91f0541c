"""The journal: everything that a buffer which dies must find again, and the recorded batches of the run.

    put, drop, log_batch ... (staged) --commit--> disk, whole or not at all --> what the buffer said of it may leave

A reader sees what is staged. Batches are logged before they are handed out, so that a learner that restarts is served the very
same ones; their groups are records of their own, written once, when they were stored. What no retained checkpoint needs is
dropped, unless `keep_history`.
"""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ...common.errors import JournalError, WireError
from ...common.messages import GroupResult
from ...common.transport.wire import Decoder, encode
from ...common.types import Batch, Group, ValidationScore
from . import records as r
from .disk import Disk, LmdbDisk, MemoryDisk

T = TypeVar("T")
MAX_FRAME_BYTES = 1 << 32  # of a group that was let in once
_groups: Decoder[GroupResult] = Decoder(GroupResult, MAX_FRAME_BYTES)


class Journal:
    """Records over a disk. Everything that reads raises JournalError for a record that is broken."""

    def __init__(self, disk: Disk, *, keep_history: bool = False, where: str = "the journal") -> None:
        """Raises JournalError for a disk that holds something of another format."""
        self._disk, self._keep_history, self._where = disk, keep_history, where
        self._pending_changes: dict[bytes, bytes | None] = {}  # None: dropped
        self._writing: dict[bytes, bytes | None] = {}  # was staged, and is on its way to the disk
        self._written: Future[None] | None = None
        self.num_moves = self._count_moves()
        self._check_format()

    def _check_format(self) -> None:
        written = self._get(r.FORMAT_KEY)
        if written is None and not self._disk.keys(b""):
            self.put(r.FORMAT_KEY, r.FORMAT)
            return
        number = None if written is None else r.unpack_record(written, int, f"{self._where}, its format")
        if number != r.FORMAT:
            raise JournalError(
                f"{self._where} has format {number}, this version of prolong reads {r.FORMAT}: "
                "finish the run with the version that began it, or start one of another name"
            )

    def _count_moves(self) -> int:
        last = self._keys(r.MOVES)[-1:]
        return 0 if not last else r.number_of(last[0]) + len(self._read(last[0], list[r.Move]) or [])

    # --- staging ------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, record: Any) -> None:
        """Stage a record."""
        self._pending_changes[key] = r.pack_record(record)

    def drop(self, key: bytes) -> None:
        """Stage the end of a record."""
        self._pending_changes[key] = None

    def put_group(self, group: Group, frame: bytes) -> None:
        """Stage a stored group; `frame` is the GroupResult that it came in, empty when there is none."""
        self._pending_changes[r.key(r.GROUP, group.ordinal)] = frame or encode(GroupResult(group=group))

    def add_moves(self, moves: list[r.Move]) -> None:
        """Stage what the ledger did."""
        self.put(r.key(r.MOVES, self.num_moves), moves)
        self.num_moves += len(moves)

    def log_batch(self, batch: Batch) -> None:
        """Stage a batch; its groups are staged or written already."""
        record = r.BatchRecord(
            generation=batch.generation,
            version=batch.version,
            ordinals=[group.ordinal for group in batch.groups],
            validation=batch.validation,
            reset_requested=batch.reset_requested,
            metrics=batch.metrics,
        )
        self.put(r.key(r.BATCH, batch.version), record)

    def save_state(self, version: int, state: r.BufferState) -> None:
        """Stage the state that belongs to the checkpoint of `version`; one that is there already is the truer one."""
        if self.load_state(version) is None:
            self.put(r.key(r.STATE, version), state)

    def forget_before(self, version: int) -> None:
        """Stage the end of what no checkpoint from `version` on needs."""
        if self._keep_history:
            return
        self._drop_batches([logged for logged in self.versions() if logged < version])
        for key in self._keys(r.STATE):
            if r.number_of(key) < version:
                self.drop(key)
        oldest = self.load_state(version)
        if oldest is None:
            return
        starts = [r.number_of(key) for key in self._keys(r.MOVES)]
        for start, following in pairwise(starts):
            if following <= oldest.num_moves:
                self.drop(r.key(r.MOVES, start))

    def forget_from(self, version: int) -> None:
        """Stage the end of batches of `version` and later, and of states after `version`: another timeline starts there."""
        self._drop_batches([logged for logged in self.versions() if logged >= version])
        for key in self._keys(r.STATE):
            if r.number_of(key) > version:
                self.drop(key)

    def _drop_batches(self, versions: list[int]) -> None:
        for version in versions:
            for ordinal in self.batch_record(version).ordinals:
                self.drop(r.key(r.GROUP, ordinal))
            self.drop(r.key(r.BATCH, version))

    def commit(self, newest: r.BufferState) -> Future[None] | None:
        """Make everything that is staged durable, with the newest state: it is when this returns None.

        Else when the future is done and the next call, which must wait for it, raises nothing.
        Raises JournalFull: nothing of this or the last commit was written, everything stays staged. Raises JournalError.
        """
        self._settle()
        packed = r.pack_record(newest)
        if not self._pending_changes and self._get(r.NEWEST) == packed:
            return None
        self._pending_changes[r.NEWEST] = packed
        put = {key: value for key, value in self._pending_changes.items() if value is not None}
        self._written = self._disk.commit(put, [key for key, value in self._pending_changes.items() if value is None])
        self._writing, self._pending_changes = ({} if self._written is None else self._pending_changes), {}
        return self._written

    def _settle(self) -> None:
        """The last commit is on the disk, or staged again."""
        written, self._written = self._written, None
        if written is None:
            return
        assert written.done(), "one commit at a time"
        try:
            written.result()
        except JournalError:
            self._pending_changes = self._writing | self._pending_changes
            raise
        finally:
            self._writing = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    def batch(self, version: int) -> Batch | None:
        """The recorded batch of the step that starts from `version`."""
        if self._get(r.key(r.BATCH, version)) is None:
            return None
        record = self.batch_record(version)
        return Batch(
            generation=record.generation,
            version=record.version,
            groups=[self.group(ordinal) for ordinal in record.ordinals],
            validation=record.validation,
            reset_requested=record.reset_requested,
            metrics=record.metrics,
        )

    def batch_record(self, version: int) -> r.BatchRecord:
        """The record of a batch that is there."""
        record = self._read(r.key(r.BATCH, version), r.BatchRecord)
        if record is None:
            raise JournalError(f"{self._where} holds no batch of version {version}")
        return record

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        return [r.number_of(key) for key in self._keys(r.BATCH)]

    def group(self, ordinal: int) -> Group:
        """A group that is there."""
        frame = self._get(r.key(r.GROUP, ordinal))
        if frame is None:
            raise JournalError(f"{self._where} has lost the group of ticket {ordinal}")
        try:
            return _groups.decode(frame).group
        except WireError as error:
            raise JournalError(f"{self._where}, group of ticket {ordinal}: {error}") from error

    def groups(self) -> list[int]:
        """Ordinals of all groups."""
        return [r.number_of(key) for key in self._keys(r.GROUP)]

    def tickets(self) -> list[r.TicketRecord]:
        """Tickets under way, in order of issue."""
        found = (self._read(key, r.TicketRecord) for key in self._keys(r.TICKET))
        return [record for record in found if record is not None]

    def load_state(self, version: int | None = None) -> r.BufferState | None:
        """The state of a checkpoint, or the newest one."""
        return self._read(r.NEWEST if version is None else r.key(r.STATE, version), r.BufferState)

    def states(self) -> list[int]:
        """Versions of the checkpoints whose states are there."""
        return [r.number_of(key) for key in self._keys(r.STATE)]

    def sweeps(self) -> list[r.SweepRecord]:
        """Validation sweeps under way."""
        return self._read(r.SWEEPS, list[r.SweepRecord]) or []

    def scores(self) -> list[ValidationScore]:
        """Validation scores of the run."""
        return self._read(r.SCORES, list[ValidationScore]) or []

    def moves(self) -> tuple[int, list[r.Move]]:
        """(number of the first one that is there, moves of the ledger from it on)."""
        starts = [r.number_of(key) for key in self._keys(r.MOVES)]
        moves = [move for start in starts for move in self._read(r.key(r.MOVES, start), list[r.Move]) or []]
        return (starts[0] if starts else 0), moves

    def num_bytes(self) -> int:
        """What the committed records take on the disk, about."""
        return self._disk.num_bytes

    def close(self) -> None:
        """Release the disk; what is staged is lost."""
        self._disk.close()

    def _read(self, key: bytes, kind: type[T]) -> T | None:
        value = self._get(key)
        return None if value is None else r.unpack_record(value, kind, f"{self._where}, record {key!r}")

    def _get(self, key: bytes) -> bytes | None:
        for values in (self._pending_changes, self._writing):
            if key in values:
                return values[key]
        return self._disk.get(key)

    def _keys(self, prefix: bytes) -> list[bytes]:
        staged = {key: value for key, value in (self._writing | self._pending_changes).items() if key.startswith(prefix)}
        kept = {key for key in self._disk.keys(prefix) if key not in staged}
        return sorted(kept | {key for key, value in staged.items() if value is not None})


def open_journal(folder: Path, *, max_gb: float, keep_history: bool, background: bool = False) -> Journal:
    """The journal that a buffer writes; `max_gb` 0: in memory only; `background`: by a thread. Raises JournalError."""
    disk = LmdbDisk.open(folder, max_gb, background=background) if max_gb > 0 else MemoryDisk()
    return Journal(disk, keep_history=keep_history, where=f"the journal {folder}")


def read_journal(folder: Path) -> Journal:
    """The journal of a run, live or ended, for reading. Raises JournalError when there is none."""
    if not (folder / "data.mdb").is_file():
        raise JournalError(f"there is no journal in {folder}: the run wrote none (buffer.journal_gb=0), or never began")
    return Journal(LmdbDisk.open(folder, readonly=True), where=f"the journal {folder}")
