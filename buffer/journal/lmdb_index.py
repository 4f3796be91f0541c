"""The index: small records, and the places of groups in the log, in LMDB, whose commits happen whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lmdb

from ...common.errors import JournalError, JournalFull
from .segment_files import NO_ROOM

# of the map, beyond twice the limit: LMDB needs room for pages that a commit replaces
SPARE_BYTES = 1 << 30


class Index(Protocol):
    """Keys and values. Reading raises JournalError."""

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        """Delete the keys of `drop`, then write `put`; durable when this returns. Raises JournalFull, JournalError."""
        ...

    def find(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of these keys, of those that are there."""
        ...

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that begin with `prefix`, ascending."""
        ...

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All keys that begin with `prefix`, ascending, with their values."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class LmdbIndex:
    """An LMDB environment: its folder holds data.mdb. One process may write, others may read meanwhile, each of them once."""

    def __init__(self, folder: Path, max_gb: float, *, readonly: bool) -> None:
        """Raises JournalError when it cannot be opened."""
        self._folder, self._max_gb = folder, max_gb
        self._env = self._open(readonly=readonly)

    def _open(self, *, readonly: bool) -> lmdb.Environment:
        size = int(2 * self._max_gb * 2**30) + SPARE_BYTES
        try:
            return lmdb.open(str(self._folder), map_size=size, max_dbs=0, readonly=readonly, create=not readonly)
        except lmdb.Error as error:
            raise JournalError(f"cannot open the journal {self._folder}: {error}") from error

    def commit(self, put: Mapping[bytes, bytes], drop: Collection[bytes]) -> None:
        try:
            with self._env.begin(write=True) as transaction:
                for key in drop:
                    transaction.delete(key)
                for key, value in put.items():
                    transaction.put(key, value)
        except (lmdb.MapFullError, lmdb.DiskError, OSError) as error:
            self._reopen()
            raise no_room(self._folder, error) from error
        except lmdb.Error as error:
            self._reopen()
            if any(os.strerror(code) in str(error) for code in NO_ROOM):
                raise no_room(self._folder, error) from error
            raise JournalError(f"cannot write to the journal {self._folder}: {error}") from error

    def _reopen(self) -> None:
        """Open again: an environment whose commit failed half-way refuses to go on. Earlier commits are whole."""
        self._env.close()
        self._env = self._open(readonly=False)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        try:
            with self._env.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise JournalError(f"cannot read the journal {self._folder}: {error}") from error

    def find(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        with self._reading() as transaction:
            found = ((key, transaction.get(key)) for key in keys)
            return {key: value for key, value in found if value is not None}

    def keys(self, prefix: bytes) -> list[bytes]:
        keys: list[bytes] = []
        with self._reading() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                keys.append(bytes(cursor.key()))
                found = cursor.next()
        return keys

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._reading() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                yield bytes(cursor.key()), bytes(cursor.value())
                found = cursor.next()

    def close(self) -> None:
        self._env.close()


def no_room(folder: Path | str, error: Exception) -> JournalFull:
    """The disk behind a journal has no room left."""
    return JournalFull(f"no room for the journal {folder} ({error}): nothing more is acknowledged until there is")
