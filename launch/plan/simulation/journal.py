"""A journal that writes nothing: it keeps the batches that a learner which restarts may ask for, as they are."""

from __future__ import annotations

from concurrent.futures import Future

from ....buffer.journal import records as r
from ....buffer.journal.disk import MemoryDisk
from ....buffer.journal.journal import Journal
from ....common.types import Batch, Group


class SimulatedJournal(Journal):
    """No buffer restarts in a simulation, so no other record is ever read."""

    def __init__(self) -> None:
        super().__init__(MemoryDisk())
        self._batches: dict[int, Batch] = {}

    def put(self, key: bytes, record: object) -> None:
        return None

    def drop(self, key: bytes) -> None:
        return None

    def put_group(self, group: Group, frame: bytes) -> None:
        return None

    def add_moves(self, moves: list[r.Move]) -> None:
        self.num_moves += len(moves)

    def log_batch(self, batch: Batch) -> None:
        self._batches[batch.version] = batch

    def save_state(self, version: int, state: r.BufferState) -> None:
        return None

    def forget_before(self, version: int) -> None:
        self._batches = {logged: batch for logged, batch in self._batches.items() if logged >= version}

    def forget_from(self, version: int) -> None:
        self._batches = {logged: batch for logged, batch in self._batches.items() if logged < version}

    def commit(self, newest: r.BufferState) -> Future[None] | None:
        return None

    def batch(self, version: int) -> Batch | None:
        return self._batches.get(version)

    def batch_record(self, version: int) -> r.BatchRecord:
        batch = self._batches[version]
        return r.BatchRecord(
            generation=batch.generation,
            version=version,
            ordinals=[group.ordinal for group in batch.groups],
            validation=batch.validation,
            reset_requested=batch.reset_requested,
            metrics=batch.metrics,
        )

    def versions(self) -> list[int]:
        return sorted(self._batches)
