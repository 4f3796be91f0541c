"""The seam to the disk: keys and values, changed by commits that happen whole or not at all, and last once they are done.

`LmdbDisk` is the real one; `MemoryDisk` serves runs without a journal, and simulations.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

import lmdb

from ...common.errors import JournalError, JournalFull

PAGE_BYTES = 4096
# of the map, beyond twice the limit: LMDB needs room for pages that a commit replaces
SPARE_BYTES = 1 << 30


class Disk(Protocol):
    """Storage as the journal uses it, from one thread."""

    num_bytes: int  # of all values, each rounded up to pages

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> Future[None] | None:
        """Delete the keys of `drop`, then write `put`; neither may be changed afterwards.

        The commit is durable when this returns None; else when the future is done, and the next commit must wait for it.
        Raises, here or in the future: JournalFull (nothing happened), JournalError.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        ...

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that begin with `prefix`, ascending."""
        ...

    def close(self) -> None:
        """Wait for a commit under way, then release the disk."""
        ...


def paged_bytes(value: Sized) -> int:
    """The approximate size of a value on the disk."""
    return -(-len(value) // PAGE_BYTES) * PAGE_BYTES


class LmdbDisk:
    """An LMDB environment: its folder holds data.mdb. One process may write, others may read meanwhile, each of them once."""

    def __init__(
        self,
        folder: Path,
        environment: lmdb.Environment,
        max_gb: float,
        *,
        lock: IO[str] | None,
        writer: ThreadPoolExecutor | None,
    ) -> None:
        """`lock` keeps other writers out, None for a reader. `writer` runs commits in a thread of its own. See `open`."""
        self._folder, self._env, self._max_gb, self._lock, self._writer = folder, environment, max_gb, lock, writer
        self.num_bytes = sum(self._sizes().values())

    @classmethod
    def open(cls, folder: Path | str, max_gb: float = 64.0, *, readonly: bool = False, background: bool = False) -> LmdbDisk:
        """Open the environment in `folder`, made if need be.

        `max_gb`: size at which commits that grow raise JournalFull. `background`: commits run in a thread of their own.
        Raises JournalError when it cannot be opened, or another process writes to it.
        """
        folder = Path(folder)
        lock = None if readonly else _lock(folder)
        environment = _open(folder, max_gb, readonly=readonly)
        writer = ThreadPoolExecutor(1, "journal") if background else None
        return cls(folder, environment, max_gb, lock=lock, writer=writer)

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
        """Open again: an environment whose commit failed half-way refuses to go on. Earlier commits are whole."""
        self._env.close()
        self._env = _open(self._folder, self._max_gb, readonly=False)

    def _growth(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> int:
        sizes = self._sizes({*put, *drop})
        return sum(map(paged_bytes, put.values())) - sum(sizes.values())

    def _sizes(self, keys: Collection[bytes] | None = None) -> dict[bytes, int]:
        """Approximate sizes of the values of these keys, or of all."""
        with self._env.begin(buffers=True) as transaction:
            if keys is None:
                return {bytes(key): paged_bytes(value) for key, value in transaction.cursor()}
            found = ((key, transaction.get(key)) for key in keys)
            return {key: paged_bytes(value) for key, value in found if value is not None}

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
        if self._lock is not None:
            self._lock.close()


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


def _open(folder: Path, max_gb: float, *, readonly: bool) -> lmdb.Environment:
    size = int(2 * max_gb * 2**30) + SPARE_BYTES
    try:
        return lmdb.open(str(folder), map_size=size, max_dbs=0, readonly=readonly, create=not readonly)
    except lmdb.Error as error:
        raise JournalError(f"cannot open the journal {folder}: {error}") from error


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
            self._values[key] = bytes(value)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def keys(self, prefix: bytes) -> list[bytes]:
        return sorted(key for key in self._values if key.startswith(prefix))

    def close(self) -> None:
        return None
