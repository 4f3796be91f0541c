"""The journal: batches are logged before they are handed out, so that a restarted learner is served the very same ones.

`BatchLog` is the seam to the disk; `Journal` is the real one (LMDB, durable), `MemoryJournal` serves simulations.
Keys: b"batch" + version (8 bytes, big-endian), b"state" + version, b"newest". Values: MessagePack of the structs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import lmdb
import msgspec

from ..common.errors import JournalError
from ..common.types import Batch, ValidationScore

T = TypeVar("T")
_BATCH, _STATE, _NEWEST = b"batch", b"state", b"newest"


class MixtureCursor(msgspec.Struct, frozen=True, kw_only=True):
    """Where a PromptMixture stands."""

    credits: list[float]  # of the weighted round-robin, per source
    drawn: list[int]  # prompts drawn so far, per source


class BufferState(msgspec.Struct, frozen=True, kw_only=True):
    """What a restarted buffer must know besides the logged batches."""

    generation: int
    version: int  # of the learner
    head: int  # version of the next batch to be formed
    epoch: int  # of the weights' membership
    ledger: dict[str, int]  # count per ticket state
    next_ordinal: int
    cursor: MixtureCursor
    unfinished: list[str] = []  # uids of prompts whose tickets were under way or stored, or wait to be reissued
    validation: list[ValidationScore] = []
    reported: int = 0  # scores of `validation` that went out with a batch
    checkpoints: list[int] = []  # versions of the retained checkpoints, ascending
    stage: int = 0
    reset_requested: bool = False  # the next batch to be formed asks for a reset of the reference


class BatchLog(Protocol):
    """What the core asks of the disk. Every call is durable when it returns; all raise JournalError when the disk fails."""

    def log_batch(self, batch: Batch, state: BufferState) -> None:
        """Record a batch under its version, and the newest state with it."""
        ...

    def batch(self, version: int) -> Batch | None:
        """The recorded batch of the step that starts from `version`."""
        ...

    def versions(self) -> list[int]:
        """Versions of the recorded batches, ascending."""
        ...

    def forget_before(self, version: int) -> None:
        """Drop batches and states before `version`."""
        ...

    def forget_from(self, version: int) -> None:
        """Drop batches of `version` and later, and states after `version`: another timeline starts there."""
        ...

    def save_state(self, version: int, state: BufferState) -> None:
        """Record the state that belongs to the checkpoint of `version`; the newest one stays."""
        ...

    def save_newest(self, state: BufferState) -> None:
        """Record the newest state only."""
        ...

    def load_state(self, version: int | None = None) -> BufferState | None:
        """The state of a checkpoint, or the newest one."""
        ...

    def close(self) -> None:
        """Release the disk."""
        ...


def _key(kind: bytes, version: int) -> bytes:
    return kind + version.to_bytes(8, "big")


def _version(key: bytes, kind: bytes) -> int:
    return int.from_bytes(key[len(kind) :], "big")


class Journal:
    """BatchLog in an LMDB environment: `folder` holds data.mdb, which grows to `max_gb` at most."""

    def __init__(self, folder: Path | str, max_gb: float = 64.0) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(str(self._folder), map_size=int(max_gb * 2**30), max_dbs=0, sync=True, metasync=True)
        except lmdb.Error as error:
            raise JournalError(f"cannot open the journal {self._folder}: {error}; is another buffer using it?") from error
        self._max_gb = max_gb

    def log_batch(self, batch: Batch, state: BufferState) -> None:
        self._write({_key(_BATCH, batch.version): msgspec.msgpack.encode(batch), _NEWEST: msgspec.msgpack.encode(state)})

    def batch(self, version: int) -> Batch | None:
        return self._read(_key(_BATCH, version), Batch)

    def versions(self) -> list[int]:
        return [_version(key, _BATCH) for key in self._keys(_BATCH)]

    def forget_before(self, version: int) -> None:
        self._write({}, drop=[key for kind in (_BATCH, _STATE) for key in self._keys(kind) if _version(key, kind) < version])

    def forget_from(self, version: int) -> None:
        drop = [key for key in self._keys(_BATCH) if _version(key, _BATCH) >= version]
        self._write({}, drop=drop + [key for key in self._keys(_STATE) if _version(key, _STATE) > version])

    def save_state(self, version: int, state: BufferState) -> None:
        self._write({_key(_STATE, version): msgspec.msgpack.encode(state)})

    def save_newest(self, state: BufferState) -> None:
        self._write({_NEWEST: msgspec.msgpack.encode(state)})

    def load_state(self, version: int | None = None) -> BufferState | None:
        return self._read(_NEWEST if version is None else _key(_STATE, version), BufferState)

    def close(self) -> None:
        self._env.close()

    def _write(self, put: dict[bytes, bytes], drop: list[bytes] | None = None) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                for key in drop or []:
                    transaction.delete(key)
                for key, value in put.items():
                    transaction.put(key, value)
        except lmdb.MapFullError as error:
            size = sum(map(len, put.values()))
            raise JournalError(
                f"the journal {self._folder} is full: {size} bytes do not fit into {self._max_gb:g} GB; "
                "save checkpoints more often: they free the batches before them"
            ) from error
        except lmdb.Error as error:
            raise JournalError(f"cannot write to the journal {self._folder}: {error}; is the disk full?") from error

    def _read(self, key: bytes, kind: type[T]) -> T | None:
        with self._env.begin(buffers=True) as transaction:
            value = transaction.get(key)
            if value is None:
                return None
            try:
                return msgspec.msgpack.decode(value, type=kind)
            except msgspec.DecodeError as error:
                raise JournalError(
                    f"the journal {self._folder} holds a {kind.__name__} that this version cannot read: {error}; "
                    "start a run of another name"
                ) from error

    def _keys(self, kind: bytes) -> list[bytes]:
        keys: list[bytes] = []
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(kind)
            while found and bytes(cursor.key()).startswith(kind):
                keys.append(bytes(cursor.key()))
                found = cursor.next()
        return keys


class MemoryJournal:
    """The same contract without a disk, for simulations. Batches are kept encoded: a caller cannot change the record."""

    def __init__(self) -> None:
        self._batches: dict[int, bytes] = {}
        self._states: dict[int, bytes] = {}
        self._newest: bytes | None = None

    def log_batch(self, batch: Batch, state: BufferState) -> None:
        self._batches[batch.version] = msgspec.msgpack.encode(batch)
        self.save_newest(state)

    def batch(self, version: int) -> Batch | None:
        encoded = self._batches.get(version)
        return None if encoded is None else msgspec.msgpack.decode(encoded, type=Batch)

    def versions(self) -> list[int]:
        return sorted(self._batches)

    def forget_before(self, version: int) -> None:
        self._batches = {v: encoded for v, encoded in self._batches.items() if v >= version}
        self._states = {v: encoded for v, encoded in self._states.items() if v >= version}

    def forget_from(self, version: int) -> None:
        self._batches = {v: encoded for v, encoded in self._batches.items() if v < version}
        self._states = {v: encoded for v, encoded in self._states.items() if v <= version}

    def save_state(self, version: int, state: BufferState) -> None:
        self._states[version] = msgspec.msgpack.encode(state)

    def save_newest(self, state: BufferState) -> None:
        self._newest = msgspec.msgpack.encode(state)

    def load_state(self, version: int | None = None) -> BufferState | None:
        encoded = self._newest if version is None else self._states.get(version)
        return None if encoded is None else msgspec.msgpack.decode(encoded, type=BufferState)

    def close(self) -> None:
        return None
