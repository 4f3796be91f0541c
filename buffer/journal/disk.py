"""The seam to the disk: keys and values, changed by commits that happen whole or not at all, and last once they are done.

`LmdbDisk` is the real one; `MemoryDisk` serves runs without a journal, and simulations.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import lmdb

from ...common.errors import JournalError, JournalFull

PAGE_BYTES = 4096
SPARE_BYTES = 1 << 30  # of the map beyond twice the limit: LMDB needs room for pages that a commit replaces


class Disk(Protocol):
    """What the journal asks for."""

    num_bytes: int  # of all values, each rounded up to pages

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        """Delete, then write. Durable when it returns None; else when the future is done, and one at a time.

        Raises, here or in the future: JournalFull (nothing happened), JournalError.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        ...

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that begin so, ascending."""
        ...

    def close(self) -> None:
        """Release the disk."""
        ...


def footprint(value: Sized) -> int:
    """What a value takes on the disk, about."""
    return -(-len(value) // PAGE_BYTES) * PAGE_BYTES


class LmdbDisk:
    """An LMDB environment: `folder` holds data.mdb. One process may write, others may read meanwhile, each once."""

    def __init__(self, folder: Path | str, max_gb: float = 64.0, *, readonly: bool = False, background: bool = False) -> None:
        """`max_gb`: size at which commits that grow raise JournalFull. `background`: a thread writes, the caller goes on.

        Raises JournalError when it cannot be opened.
        """
        self._writer = ThreadPoolExecutor(1, "journal") if background else None
        self._folder, self._max_gb, self._readonly = Path(folder), max_gb, readonly
        if not readonly:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._hold()
        self._env = self._open()
        self.num_bytes = sum(self._sizes().values())

    def _hold(self) -> None:
        """Two buffers that write would each undo the other's; the lock goes with this process."""
        self._lock = (self._folder / "writer.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise JournalError(f"the journal {self._folder} is being written by another buffer; stop it first") from None

    def _open(self) -> lmdb.Environment:
        size = int(2 * self._max_gb * 2**30) + SPARE_BYTES
        try:
            return lmdb.open(str(self._folder), map_size=size, max_dbs=0, readonly=self._readonly, create=not self._readonly)
        except lmdb.Error as error:
            raise JournalError(f"cannot open the journal {self._folder}: {error}") from error

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        growth = self._growth(put, drop)
        if growth > 0 and self.num_bytes + growth > self._max_gb * 2**30:
            raise JournalFull(
                f"the journal {self._folder} holds {self.num_bytes / 2**30:.3f} GB, buffer.journal_gb = {self._max_gb:g}: "
                "nothing more is acknowledged until a checkpoint lets go of batches; save checkpoints more often, keep fewer "
                "(checkpoint.every, checkpoint.keep), or give it more room"
            )
        if self._writer is not None:
            return self._writer.submit(self._write, put, drop, growth)
        self._write(put, drop, growth)
        return None

    def _write(self, put: Mapping[bytes, bytes], drop: Collection[bytes], growth: int) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                for key in drop:
                    transaction.delete(key)
                for key, value in put.items():
                    transaction.put(key, value)
        except (lmdb.MapFullError, lmdb.DiskError, OSError) as error:
            self._reopen()
            raise self._full(error) from error
        except lmdb.Error as error:
            self._reopen()
            if "No space left" in str(error):
                raise self._full(error) from error
            raise JournalError(f"cannot write to the journal {self._folder}: {error}") from error
        self.num_bytes += growth

    def _full(self, error: Exception) -> JournalFull:
        return JournalFull(f"no room for the journal {self._folder} ({error}): nothing more is acknowledged until there is")

    def _reopen(self) -> None:
        """An environment whose commit failed half-way refuses to go on; what was committed before is whole."""
        self._env.close()
        self._env = self._open()

    def _growth(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> int:
        sizes = self._sizes({*put, *drop})
        return sum(map(footprint, put.values())) - sum(sizes.values())

    def _sizes(self, keys: Collection[bytes] | None = None) -> dict[bytes, int]:
        """Footprints of what is there, of these keys or of all."""
        with self._env.begin(buffers=True) as transaction:
            if keys is None:
                return {bytes(key): footprint(value) for key, value in transaction.cursor()}
            found = ((key, transaction.get(key)) for key in keys)
            return {key: footprint(value) for key, value in found if value is not None}

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            return transaction.get(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        keys: list[bytes] = []
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                keys.append(bytes(cursor.key()))
                found = cursor.next()
        return keys

    def close(self) -> None:
        if self._writer is not None:
            self._writer.shutdown()
        self._env.close()
        if not self._readonly:
            self._lock.close()


class MemoryDisk:
    """The same contract in memory."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self.num_bytes = 0

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        for key in drop:
            self.num_bytes -= footprint(self._values.pop(key, b""))
        for key, value in put.items():
            self.num_bytes += footprint(value) - footprint(self._values.get(key, b""))
            self._values[key] = bytes(value)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self._values if key.startswith(prefix))

    def close(self) -> None:
        return None
