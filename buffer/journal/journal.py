"""The journal: all that a buffer which restarts must find again, and the recorded batches of the run.

    put, drop, log_batch ... (pending changes) --commit--> disk, whole or not at all --> messages that follow may leave

Readers see pending changes. A batch is logged before it is handed out, so that a learner that restarts is served the very same
one; its groups are records of their own, written once, when they were stored. Records that no retained checkpoint needs are
dropped, unless `keep_history`.
"""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from ...common.errors import JournalError, WireError
from ...common.messages import GroupResult
from ...common.transport.wire import Decoder, encode
from ...common.types import Batch, Group, ValidationScore
from . import records as r
from .disk import Disk, MemoryDisk
from .logged_disk import LoggedDisk

T = TypeVar("T")
# of a group's frame: the buffer accepted it once, so any size that fits the disk will do
MAX_FRAME_BYTES = 1 << 32
# of a kept history, one plan of so many stays whole: to make another one again takes a second for each plan since
WHOLE_PLANS = 32
_groups: Decoder[GroupResult] = Decoder(GroupResult, MAX_FRAME_BYTES)


class Journal:
    """Records over a disk. Every method that reads raises JournalError for a broken record."""

    def __init__(self, disk: Disk, *, keep_history: bool = False, where: str = "the journal") -> None:
        """`where` names the journal in errors. Raises JournalError for a disk that holds another format."""
        self._disk, self._keep_history, self._where = disk, keep_history, where
        # key -> value, None for a key that is dropped
        self._pending_changes: dict[bytes, bytes | None] = {}
        # changes on their way to the disk, and the commit that writes them
        self._writing: dict[bytes, bytes | None] = {}
        self._written: Future[None] | None = None
        self.num_moves = self._count_moves()
        self.num_observations = self._count_observations()
        self._check_format()

    def _check_format(self) -> None:
        written = self._get(r.FORMAT_KEY)
        if written is None and not self._disk.keys(b""):
            self.put(r.FORMAT_KEY, r.FORMAT)
            return
        number = None if written is None else r.unpack_record(written, int, f"{self._where}, its format")
        if number not in r.READABLE_FORMATS:
            raise JournalError(
                f"{self._where} has format {number}, this version of prolong reads {r.READABLE_FORMATS[0]} to {r.FORMAT}: "
                "finish the run with the version that began it, or start one of another name"
            )
        if number != r.FORMAT:
            self.put(r.FORMAT_KEY, r.FORMAT)

    def _count_moves(self) -> int:
        keys = self._keys(r.MOVES)
        if not keys:
            return 0
        last = self._read(keys[-1], list[r.Move]) or []
        return r.number_of(keys[-1]) + len(last)

    def _count_observations(self) -> int:
        keys = self._keys(r.SEEN)
        newest = self.newest_plan()
        written = r.number_of(keys[-1]) + len(self._read(keys[-1], list[r.Observation]) or []) if keys else 0
        return max(written, 0 if newest is None else newest.num_observations)

    # --- pending changes --------------------------------------------------------------------------

    def put(self, key: bytes, record: object) -> None:
        """Write a record with the next commit."""
        self._pending_changes[key] = r.pack_record(record)

    def drop(self, key: bytes) -> None:
        """Drop a record with the next commit."""
        self._pending_changes[key] = None

    def put_group(self, group: Group, frame: bytes) -> None:
        """Write a stored group. `frame` is the GroupResult that it came in, empty when there is none."""
        self._pending_changes[r.key(r.GROUP, group.ordinal)] = frame or encode(GroupResult(group=group))

    def log_eta(self, record: r.EtaRecord) -> None:
        """Write a decision about eta. They are all kept: a few hundred bytes for each step."""
        self.put(r.key(r.ETA, record.evidence.version), record)

    def log_plan(self, record: r.PlanRecord) -> None:
        """Write a plan of the curriculum; what was observed before it is in it."""
        self.put(r.key(r.PLAN, record.number), record)
        if self._keep_history:
            return
        for key in self._keys(r.SEEN):
            if r.number_of(key) < record.num_observations:
                self.drop(key)

    def add_observations(self, seen: list[r.Observation]) -> None:
        """Write what groups say of their prompts, after what is there."""
        self.put(r.key(r.SEEN, self.num_observations), seen)
        self.num_observations += len(seen)

    def add_moves(self, moves: list[r.Move]) -> None:
        """Write moves of the ledger, after those that are there."""
        self.put(r.key(r.MOVES, self.num_moves), moves)
        self.num_moves += len(moves)

    def log_batch(self, batch: Batch) -> None:
        """Write a batch; its groups are records already, pending or on the disk."""
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
        """Write the state that belongs to the checkpoint of `version`, unless there is one: the first is the true one."""
        if self.load_state(version) is None:
            self.put(r.key(r.STATE, version), state)

    def forget_before(self, version: int) -> None:
        """Drop all that no checkpoint from `version` on needs; of a kept history, what follows from the rest of it."""
        if self._keep_history:
            self._outline_plans(version)
            return
        self._drop_batches([logged for logged in self.versions() if logged < version])
        for key in self._keys(r.STATE):
            if r.number_of(key) < version:
                self.drop(key)
        if self.load_state(version) is None:
            return
        # of a learner that repeats steps, an earlier checkpoint may have the later state
        kept = [self.load_state(saved) for saved in self.states()]
        for number in self._unneeded_plans([state.cursor for state in kept if state is not None]):
            self.drop(r.key(r.PLAN, number))
        for key in self._keys(r.OUTLINE):
            self.drop(key)
        covered = min(state.num_moves for state in kept if state is not None)
        starts = [r.number_of(key) for key in self._keys(r.MOVES)]
        for start, following in pairwise(starts):
            if following <= covered:
                self.drop(r.key(r.MOVES, start))

    def _unneeded_plans(self, cursors: list[r.PromptCursor]) -> list[int]:
        """The plans before the oldest that a cursor names, but the newest."""
        oldest = min(map(r.plan_number, cursors), default=0)
        return [number for number in self.plans()[:-1] if number < oldest]

    def _outline_plans(self, version: int) -> None:
        """Keep no more than the outlines of most plans that no checkpoint from `version` on needs.

        Only where the observations are kept from the first on: all of the plans follow from them.
        """
        keys = self._keys(r.SEEN)
        if not keys or r.number_of(keys[0]) > 0:
            return
        kept = [self.load_state(saved) for saved in self.states() if saved >= version]
        for number in self._unneeded_plans([state.cursor for state in kept if state is not None]):
            if number % WHOLE_PLANS == 0:
                continue
            outline = self.plan_outline(number)
            assert outline is not None, "its number was just read"
            self.put(r.key(r.OUTLINE, number), outline)
            self.drop(r.key(r.PLAN, number))

    def forget_from(self, version: int) -> None:
        """Drop batches of `version` and later, and what is recorded of later versions: a generation begins there."""
        self._drop_batches([logged for logged in self.versions() if logged >= version])
        for key in [*self._keys(r.STATE), *self._keys(r.ETA)]:
            if r.number_of(key) > version:
                self.drop(key)

    def _drop_batches(self, versions: list[int]) -> None:
        for version in versions:
            for ordinal in self.batch_record(version).ordinals:
                self.drop(r.key(r.GROUP, ordinal))
            self.drop(r.key(r.BATCH, version))

    def commit(self, newest: r.BufferState) -> Future[None] | None:
        """Make every pending change durable, with the newest state.

        It is durable when this returns None; else when the future is done and the next call raises nothing (that call must
        come after the future is done). Raises JournalFull: nothing of this or the last commit was written, and all of it is
        pending again. Raises JournalError.
        """
        self._settle()
        packed = r.pack_record(newest)
        if not self._pending_changes and self._get(r.NEWEST) == packed:
            return None
        self._pending_changes[r.NEWEST] = packed
        put = {key: value for key, value in self._pending_changes.items() if value is not None}
        drop = [key for key, value in self._pending_changes.items() if value is None]
        self._written = self._disk.commit(put, drop)
        self._writing = {} if self._written is None else self._pending_changes
        self._pending_changes = {}
        return self._written

    def _settle(self) -> None:
        """End the last commit: it is on the disk, or its changes are pending again."""
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

    # --- reading ----------------------------------------------------------------------------------

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
        """The record of a batch. Raises JournalError when there is none."""
        record = self._read(r.key(r.BATCH, version), r.BatchRecord)
        if record is None:
            raise JournalError(f"{self._where} holds no batch of version {version}")
        return record

    def eta_records(self) -> list[r.EtaRecord]:
        """The decisions about eta, in order of versions."""
        found = (self._read(key, r.EtaRecord) for key in self._keys(r.ETA))
        return [record for record in found if record is not None]

    def plan(self, number: int) -> r.PlanRecord | None:
        """A plan of the curriculum, if it is there."""
        return self._read(r.key(r.PLAN, number), r.PlanRecord)

    def plan_outline(self, number: int) -> r.PlanOutline | None:
        """The outline of a plan, whether or not what it knows is there."""
        found = self._read(r.key(r.OUTLINE, number), r.PlanOutline)
        return found or self._read(r.key(r.PLAN, number), r.PlanOutline)

    def plan_outlines(self) -> list[int]:
        """The numbers of the plans of which no more than an outline is recorded, ascending."""
        return [r.number_of(key) for key in self._keys(r.OUTLINE)]

    def plans(self) -> list[int]:
        """The numbers of the recorded plans, ascending."""
        return [r.number_of(key) for key in self._keys(r.PLAN)]

    def newest_plan(self) -> r.PlanRecord | None:
        """The last plan that was made; None before the first."""
        numbers = self.plans()
        return self.plan(numbers[-1]) if numbers else None

    def observations(self) -> dict[int, list[r.Observation]]:
        """What groups said of their prompts, as far as it is kept: lists by the number of their first."""
        keys = self._keys(r.SEEN)
        return {r.number_of(key): self._read(key, list[r.Observation]) or [] for key in keys}

    def observations_from(self, number: int) -> list[r.Observation]:
        """Those of this number and later."""
        keys = [key for key in self._keys(r.SEEN) if r.number_of(key) >= number]
        return [one for key in keys for one in self._read(key, list[r.Observation]) or []]

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        return [r.number_of(key) for key in self._keys(r.BATCH)]

    def group(self, ordinal: int) -> Group:
        """The group of a ticket. Raises JournalError when there is none."""
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

    def retries(self) -> dict[int, tuple[str, int]]:
        """The prompts that wait to be issued again, by number: uid and next attempt."""
        found = ((r.number_of(key), self._read(key, tuple[str, int])) for key in self._keys(r.RETRY))
        return {number: retry for number, retry in found if retry is not None}

    def load_state(self, version: int | None = None) -> r.BufferState | None:
        """The state that belongs to the checkpoint of `version`, or the newest state."""
        return self._read(r.NEWEST if version is None else r.key(r.STATE, version), r.BufferState)

    def states(self) -> list[int]:
        """Versions of the checkpoints whose states are recorded, ascending."""
        return [r.number_of(key) for key in self._keys(r.STATE)]

    def sweeps(self) -> list[r.SweepRecord]:
        """Validation sweeps under way."""
        return self._read(r.SWEEPS, list[r.SweepRecord]) or []

    def scores(self) -> list[ValidationScore]:
        """Validation scores of the run."""
        return self._read(r.SCORES, list[ValidationScore]) or []

    def moves(self) -> tuple[int, list[r.Move]]:
        """The ledger's moves that are recorded, and the number of the first of them."""
        starts = [r.number_of(key) for key in self._keys(r.MOVES)]
        moves = [move for start in starts for move in self._read(r.key(r.MOVES, start), list[r.Move]) or []]
        return (starts[0] if starts else 0), moves

    def num_bytes(self) -> int:
        """The approximate size of the committed records on the disk."""
        return self._disk.num_bytes

    def defects(self) -> list[str]:
        """What is wrong with how the committed records lie on the disk."""
        return self._disk.defects()

    def close(self) -> None:
        """Release the disk; pending changes are lost."""
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
        """Keys that begin with `prefix`, ascending, as if every change were on the disk."""
        changes = self._writing | self._pending_changes
        changed = {key: value for key, value in changes.items() if key.startswith(prefix)}
        unchanged = {key for key in self._disk.keys(prefix) if key not in changed}
        return sorted(unchanged | {key for key, value in changed.items() if value is not None})


def open_journal(folder: Path, *, max_gb: float, keep_history: bool, background: bool = False) -> Journal:
    """The journal that a buffer writes. Raises JournalError.

    `max_gb` 0 keeps it in memory only; with `background` a thread writes to the disk.
    """
    disk = LoggedDisk.open(folder, max_gb, background=background) if max_gb > 0 else MemoryDisk()
    return Journal(disk, keep_history=keep_history, where=f"the journal {folder}")


def read_journal(folder: Path) -> Journal:
    """The journal of a run, live or ended, for reading. Raises JournalError when there is none."""
    if not (folder / "data.mdb").is_file():
        raise JournalError(
            f"there is no journal in {folder}: the run wrote none (buffer.journal_gb=0), never began, or its buffer has "
            "another disk, whose journal can be copied here"
        )
    return Journal(LoggedDisk.open(folder, readonly=True), where=f"the journal {folder}")
