"""The weights that a process holds of a pulled model, chunk by chunk, and what others may have of them.

learner   PackedWeights --advance--> ChunkStore --answer--> server --socket--> puller
puller    begin, put_deltas, put_full, finish --> ChunkStore --answer--> its own server, if it serves

A chunk is held in one version of one session, or it is absent: while it is written, and after bytes whose digest was wrong. So
no reader can see one version as another.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import thread_time
from typing import NamedTuple

import numpy as np
import torch

from ...errors import WeightsError
from ..buckets import PackedWeights
from .catalog import DIGEST_BYTES, SESSION_BYTES, Catalog, chunk_digest, encode_catalog
from .chunks import ChunkLayout
from .delta import apply_delta, encode_delta
from .ring import DeltaRing, Step

CATALOGS_KEPT = 32
MAX_THREADS = 8  # that encode, on a quarter of the cores at most: the learner needs the others
NO_SESSION = bytes(SESSION_BYTES)


class HeldVersion(NamedTuple):
    """What a chunk's content is."""

    session: bytes
    version: int


class Deltas(NamedTuple):
    """An answer: apply these in order."""

    steps: list[tuple[int, bytes]]  # the version after each, and its payload


class Full(NamedTuple):
    """An answer: the whole chunk."""

    content: bytes | memoryview


class NotYet(NamedTuple):
    """An answer: the store does not hold that version of the chunk yet, and may come to."""


class Superseded(WeightsError):
    """An answer, and what a puller raises: the version is no longer to be had, because `newest` took its place."""

    def __init__(self, newest: int) -> None:
        super().__init__(f"superseded by version {newest}")
        self.newest = newest


Answer = Deltas | Full | NotYet | Superseded


class EncodeStats(NamedTuple):
    """What `advance` made of one version."""

    version: int
    num_bytes: int  # that a puller fetches that held the version before
    full_bytes: int  # of the model
    num_changed: int  # chunks, of num_chunks
    num_full: int  # chunks that have no smaller delta
    num_chunks: int
    cpu_s: float  # of the threads that encoded, beside the caller's


class _Coded(NamedTuple):
    """One chunk of a version that is encoded."""

    digest: bytes
    size: int | None  # of its delta; None where full is smaller
    cpu_s: float


class ChunkStore:
    """The newest content of every chunk, its version, and deltas between versions. Any thread may call any method.

    One thread at a time writes: `advance` is the learner's, the rest of the writers are a puller's.
    """

    def __init__(self, layout: ChunkLayout, buckets: Sequence[torch.Tensor], *, keep_deltas: bool = True) -> None:
        """`buckets`: flat uint8 tensors in host memory, one per bucket of the manifest; nobody else writes to them.

        Without `keep_deltas` the store gives full chunks alone, and takes no memory beside `buckets`.
        """
        sizes = [flat.numel() for flat in buckets]
        expected = [bucket.num_bytes for bucket in layout.manifest.buckets]
        if sizes != expected:
            raise ValueError(f"buckets of {sizes} bytes: the manifest says {expected}")
        self.layout = layout
        self.buckets = list(buckets)
        self._threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // 4))
        self._lock = threading.Lock()
        self._held: list[HeldVersion | None] = [None] * len(layout.chunks)
        self._digests = [b""] * len(layout.chunks)
        self._ring = DeltaRing([chunk.num_bytes if keep_deltas else 0 for chunk in layout.chunks])
        self._session = NO_SESSION
        self._version = -1  # the newest that every chunk has reached
        self._target: Catalog | None = None
        self._catalogs: dict[int, bytes] = {}  # of this session, the target's among them
        self._callbacks: list[Callable[[], None]] = []
        self._advances = False  # a learner's: no version comes but by `advance`

    @property
    def session(self) -> bytes:
        """Of the newest catalog; zeros before the first one."""
        with self._lock:
            return self._session

    @property
    def version(self) -> int:
        """The newest version that is complete; -1 if there is none."""
        with self._lock:
            return self._version

    def held(self, index: int) -> HeldVersion | None:
        """The session and version of chunk `index`; None while it is absent."""
        with self._lock:
            return self._held[index]

    def catalog(self, version: int) -> bytes | None:
        """The encoded catalog of a version of this session, which may be incomplete; None if it is not known any more."""
        with self._lock:
            return self._catalogs.get(version)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every progress, from the thread that made it. It must neither block nor raise."""
        with self._lock:
            self._callbacks.append(callback)

    def answer(self, index: int, session: bytes, have: int | None, target: int) -> Answer:
        """What brings a puller to version `target` of `session` that holds `have` of the same session of chunk `index`."""
        with self._lock:
            newest = self._target.version if self._target is not None else -1
            if session != self._session:
                return Superseded(newest) if self._advances else NotYet()
            if target > newest:
                return NotYet()
            chain = self._ring.chain(index, have, target)
            if chain is not None:
                return Deltas(chain)
            later = self._later(index, session, target)
            if later is None:
                # a puller's absent chunk is on its way to the newest version and to no other; a learner's is back in a moment
                is_coming = target == newest or (self._advances and self._held[index] is None)
                return NotYet() if is_coming else Superseded(newest)
            content = self.layout.view(self.buckets, index).clone()
        for payload in reversed(later):
            apply_delta(content, payload, self.layout.chunks[index].width, undo=True)
        # no further copy: it would hold the interpreter's lock
        return Full(content.numpy().data)

    # --- the learner's ------------------------------------------------------------------------------------------------

    def advance(self, weights: PackedWeights) -> EncodeStats:
        """Become `weights`, and keep the deltas that lead there. Blocks for about 3 ms per chunk and thread.

        Raises WeightsError unless the version is newer than all before, and the manifest the same.
        """
        if weights.manifest != self.layout.manifest:
            raise WeightsError("weights of another manifest than the store's")
        base = self.version
        if weights.version <= base:
            raise WeightsError(f"weights of version {weights.version}: the store is at {base} already")
        self._advances = True
        with ThreadPoolExecutor(self._threads, "encode-weights") as pool:
            coded = list(pool.map(partial(self._encode, weights, base), range(len(self.layout.chunks))))
        digests = b"".join(chunk.digest for chunk in coded)
        session = self._session if self._session != NO_SESSION else secrets.token_bytes(SESSION_BYTES)
        catalog = Catalog(session=session, version=weights.version, digests=digests)
        self.begin(encode_catalog(catalog), catalog)
        for index, chunk in enumerate(coded):
            if chunk.size != 0:
                self._become(index, self.layout.view(weights.buckets, index), has_delta=chunk.size is not None)
        self.finish(weights.version)
        full = [chunk.num_bytes for chunk, its in zip(self.layout.chunks, coded, strict=True) if its.size is None]
        return EncodeStats(
            version=weights.version,
            num_bytes=sum(full) + sum(chunk.size or 0 for chunk in coded),
            full_bytes=self.layout.num_bytes,
            num_changed=sum(chunk.size != 0 for chunk in coded),
            num_full=len(full),
            num_chunks=len(coded),
            cpu_s=sum(chunk.cpu_s for chunk in coded),
        )

    def _encode(self, weights: PackedWeights, base: int, index: int) -> _Coded:
        """Keep the delta of one chunk; the digest is of what it leads to."""
        started, target = thread_time(), self.layout.view(weights.buckets, index)
        if base < 0:
            return _Coded(chunk_digest(target), None, thread_time() - started)
        payload = encode_delta(self.layout.view(self.buckets, index), target, self.layout.chunks[index].width)
        if payload == b"":
            return _Coded(self._digests[index], 0, thread_time() - started)
        if payload is not None:
            # at once, so that older ones make room before the next chunk is encoded
            with self._lock:
                self._ring.keep(index, Step(base, weights.version, payload))
        digest = chunk_digest(target)
        return _Coded(digest, None if payload is None else len(payload), thread_time() - started)

    def _become(self, index: int, content: torch.Tensor, *, has_delta: bool) -> None:
        """Replace chunk `index`. Readers meet it absent for the time of a copy."""
        with self._lock:
            self._held[index] = None
        np.copyto(self.layout.view(self.buckets, index).numpy(), content.numpy())
        with self._lock:
            if not has_delta:
                self._ring.forget(index)
            self._reach(index)

    # --- a puller's ---------------------------------------------------------------------------------------------------

    def begin(self, encoded: bytes, catalog: Catalog) -> list[int]:
        """Make `catalog` the version to reach; returns the chunks that are missing. Those that are equal already have it.

        Of a version that is complete already somebody doubts the content: the chunks are digested again.
        """
        if len(catalog.digests) != len(self.layout.chunks) * DIGEST_BYTES:
            raise WeightsError(f"catalog with {len(catalog.digests)} bytes of digests for {len(self.layout.chunks)} chunks")
        if self.version == catalog.version and self.catalog(catalog.version) == encoded:
            self.recheck()
        with self._lock:
            if catalog.session != self._session:
                self._session, self._version, self._catalogs = catalog.session, -1, {}
                self._ring.forget_all()
            elif self._target is not None and catalog.version < self._target.version:
                raise WeightsError(f"catalog of version {catalog.version}: the store is at {self._target.version} already")
            self._target = catalog
            self._catalogs[catalog.version] = encoded
            while len(self._catalogs) > CATALOGS_KEPT:
                del self._catalogs[min(self._catalogs)]
            missing = [index for index in range(len(self._held)) if not self._take_over(index, catalog)]
        self._progressed()
        return missing

    def put_deltas(self, index: int, base: int, deltas: Sequence[tuple[int, bytes]]) -> bool:
        """Apply an answer to chunk `index`, which is held in version `base`; the last delta leads to the catalog's version.

        An answer that comes again changes nothing: the chunk is at that version already.
        False: the payloads are malformed or the digest is wrong. The chunk is absent now, and needs to be fetched in full.
        Raises WeightsError, and changes nothing, when the deltas do not lead from what is held to what is wanted.
        """
        with self._lock:
            wanted, held = self._wanted(), self._held[index]
            versions = [base, *(version for version, _ in deltas)]
            if deltas and held == (self._session, versions[-1]) == (wanted.session, wanted.version):
                return True
            if held != (self._session, base) or versions[-1] != wanted.version or sorted(set(versions)) != versions:
                raise WeightsError(f"deltas over versions {versions} for a chunk held as {held}, wanted {wanted.version}")
            self._held[index] = None
        view, width = self.layout.view(self.buckets, index), self.layout.chunks[index].width
        try:
            for _, payload in deltas:
                apply_delta(view, payload, width)
        except WeightsError:
            return False
        return self._check(index, wanted, base, deltas)

    def put_full(self, index: int, version: int, content: bytes | memoryview) -> bool:
        """Replace chunk `index` by `content`. False: it has not the catalog's digest; the chunk is absent now.

        Raises WeightsError, and changes nothing, when `version` is not the catalog's.
        """
        view = self.layout.view(self.buckets, index)
        with self._lock:
            wanted = self._wanted()
            if version != wanted.version:
                raise WeightsError(f"chunk of version {version}: wanted {wanted.version}")
            if len(content) != view.numel():
                return False
            self._held[index] = None
        np.copyto(view.numpy(), np.frombuffer(content, np.uint8))
        return self._check(index, wanted, -1, ())

    def recheck(self) -> list[int]:
        """Compute every digest again; returns the chunks whose content has changed in memory. They are absent now."""
        damaged: list[int] = []
        for index in range(len(self.layout.chunks)):
            with self._lock:
                held, digest = self._held[index], self._digests[index]
            if held is not None and chunk_digest(self.layout.view(self.buckets, index)) != digest:
                damaged.append(index)
                with self._lock:
                    self._held[index] = None
        return damaged

    def finish(self, version: int) -> None:
        """Every chunk has reached `version`: it is the newest from now on. Raises WeightsError if one has not."""
        with self._lock:
            wanted = HeldVersion(self._session, version)
            behind = sum(held != wanted for held in self._held)
            if behind or self._wanted().version != version:
                raise WeightsError(f"version {version} is not complete: {behind} of {len(self._held)} chunks are not there")
            self._version = version
        self._progressed()

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _wanted(self) -> Catalog:
        if self._target is None:
            raise WeightsError("a chunk before the first catalog")
        return self._target

    def _take_over(self, index: int, catalog: Catalog) -> bool:
        """Count chunk `index` as the catalog's version if it is equal. False: it is missing."""
        held = self._held[index]
        if held is None or self._digests[index] != catalog.digest(index):
            if held is not None and held == (catalog.session, catalog.version):
                self._held[index] = None
            return False
        if held.session == catalog.session and held.version < catalog.version:
            self._ring.keep(index, Step(held.version, catalog.version, b""))
        self._held[index] = HeldVersion(catalog.session, catalog.version)
        return True

    def _reach(self, index: int) -> None:
        """Chunk `index` holds what was wanted."""
        wanted = self._wanted()
        self._digests[index] = wanted.digest(index)
        self._held[index] = HeldVersion(wanted.session, wanted.version)

    def _later(self, index: int, session: bytes, target: int) -> list[bytes] | None:
        """The deltas that made what is held of `target`; None if that cannot be undone.

        Without undoing them, a puller whose link is slower than versions come would never find one that is still there.
        """
        held = self._held[index]
        if held is None or held.session != session:
            return None
        if held.version == target:
            return []
        chain = self._ring.chain(index, target, held.version)
        return None if chain is None else [payload for _, payload in chain]

    # --- without it ---------------------------------------------------------------------------------------------------

    def _check(self, index: int, wanted: Catalog, base: int, deltas: Sequence[tuple[int, bytes]]) -> bool:
        """Whether the content that was just written is the wanted one; if so, count it."""
        if chunk_digest(self.layout.view(self.buckets, index)) != wanted.digest(index):
            return False
        with self._lock:
            if self._target is not wanted:
                return False
            if not deltas:
                self._ring.forget(index)
            for version, payload in deltas:
                self._ring.keep(index, Step(base, version, bytes(payload)))
                base = version
            self._reach(index)
        self._progressed()
        return True

    def _progressed(self) -> None:
        with self._lock:
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()
