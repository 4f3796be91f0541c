"""Stores, servers and updates for tests of weights that are pulled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import msgspec
import torch
import zmq
from prolong.common.messages import UpdateWeights
from prolong.common.transport.keys import ClientKeys
from prolong.common.types import Manifest, PullAddress, Rendezvous, WeightSource
from prolong.common.weights.buckets import PackedWeights, plan_buckets
from prolong.common.weights.pull.catalog import catalog_digest
from prolong.common.weights.pull.chunks import ChunkLayout
from prolong.common.weights.pull.pace import Pace
from prolong.common.weights.pull.puller import Puller
from prolong.common.weights.pull.server import WeightServer
from prolong.common.weights.pull.store import ChunkStore

CHUNK_BYTES = 1 << 12


def make_manifest(num_bytes: int = 1 << 16, num_buckets: int = 2) -> Manifest:
    """So many float32 buckets of this size."""
    size = num_bytes // 4
    return plan_buckets([(f"w{number}", "float32", [size]) for number in range(num_buckets)], num_bytes)


def make_store(manifest: Manifest, chunk_bytes: int = CHUNK_BYTES) -> ChunkStore:
    """An empty store with small chunks."""
    buckets = [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in manifest.buckets]
    return ChunkStore(ChunkLayout(manifest, chunk_bytes), buckets)


class Learner:
    """What a learner serves: versions of random weights, of which a few elements change each time."""

    def __init__(
        self,
        manifest: Manifest | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        keys: ClientKeys | None = None,
        max_mb_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.manifest = manifest or make_manifest()
        self.store = make_store(self.manifest, chunk_bytes)
        self._keys, self._max_mb_s = keys, max_mb_s
        self.serve_at(port)
        self.random = torch.Generator().manual_seed(1)
        self.buckets = [self._noise(bucket.num_bytes) for bucket in self.manifest.buckets]
        self.version = -1

    def serve_at(self, port: int) -> None:
        """Serve at this port; 0: any free one."""
        self.server = WeightServer("127.0.0.1", port, self._keys, Pace(self._max_mb_s))
        self.server.serve(self.store)
        self.server.start()

    def _noise(self, num_bytes: int) -> torch.Tensor:
        return torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=self.random)

    def step(self, share: float = 0.01) -> UpdateWeights:
        """The next version, and its update from the learner itself."""
        self.version += 1
        if self.version:
            for flat in self.buckets:
                words = flat.view(torch.int32)
                changed = torch.rand(words.numel(), generator=self.random) < share
                words[changed] += 1
        copies = [flat.clone() for flat in self.buckets]
        self.store.advance(PackedWeights(version=self.version, manifest=self.manifest, buckets=copies))
        return self.update(self.server.source)

    def replace(self, start: int) -> None:
        """Draw all weights from this byte on anew: no delta leads to the next version of their chunks."""
        for flat in self.buckets:
            flat[start:] = self._noise(flat.numel() - start)

    def update(self, *sources: WeightSource) -> UpdateWeights:
        """An update to the newest version from these sources."""
        encoded = self.store.catalog(self.version)
        assert encoded is not None
        return make_update(self.manifest, self.version, catalog_digest(encoded), *sources)

    def is_held_by(self, store: ChunkStore | None) -> bool:
        """Whether a store holds the newest version, bit for bit."""
        assert store is not None
        return store.version == self.version and all(map(torch.equal, store.buckets, self.buckets))

    def close(self) -> None:
        self.server.close()

    def __enter__(self) -> Learner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Relay:
    """A process that serves what it pulls, while it pulls."""

    def __init__(self, keys: ClientKeys | None = None, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self.server = WeightServer("127.0.0.1", 0, keys, Pace(0.0))
        self.puller = Puller(self._make_store, keys)
        self.server.start()

    def _make_store(self, manifest: Manifest) -> ChunkStore:
        store = make_store(manifest, self._chunk_bytes)
        self.server.serve(store)
        return store

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.puller.close()
        self.server.close()


def make_update(manifest: Manifest, version: int, digest: bytes, *sources: WeightSource) -> UpdateWeights:
    address = msgspec.msgpack.encode(PullAddress(catalog=digest, sources=list(sources)))
    rendezvous = Rendezvous(transport="pull", address=address)
    return UpdateWeights(
        generation=1, version=version, epoch=-1, member=0, num_members=1, rendezvous=rendezvous, manifest=manifest
    )


@contextmanager
def make_puller(keys: ClientKeys | None = None, **settings) -> Iterator[Puller]:
    """A puller into stores with small chunks."""
    chunk_bytes = settings.pop("chunk_bytes", CHUNK_BYTES)
    puller = Puller(lambda manifest: make_store(manifest, chunk_bytes), keys, **settings)
    try:
        yield puller
    finally:
        puller.close()


def store_of(puller: Puller) -> ChunkStore:
    """What a puller holds."""
    assert puller.store is not None
    return puller.store


def make_client_keys() -> ClientKeys:
    """A pair of a process; the buffer's key is any."""
    public, secret = zmq.curve_keypair()
    return ClientKeys(secret=secret, public=public, buffer=zmq.curve_keypair()[0])


def soon(seconds: float = 60.0) -> float:
    """A deadline."""
    return monotonic() + seconds


def open_memory() -> set[str]:
    """Descriptors of this process that hold memory of pulled weights."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return {link.name for link in links if "prolong-weights" in os.readlink(link)}
