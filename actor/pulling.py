"""Weights that a process pulls for itself: into shared memory, in a thread, beside everything else. Actors and relays do so.

WeightUpdates --pull(update)--> Puller (thread, sockets) --chunks--> ChunkStore over SharedBuckets --rendezvous--> engine
                                    ^                                    |
learner, relays, serving actors ----+          WeightServer (if it serves) --> other actors and relays
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from time import monotonic
from typing import NamedTuple

import msgspec

from ..common.config.sections import Config, WeightsConfig
from ..common.errors import ConfigError, WeightsError
from ..common.messages import UpdateWeights, WeightReaders
from ..common.transport.keys import ClientKeys
from ..common.transport.sockets import is_loopback
from ..common.types import PULL, Manifest, PullAddress, Rendezvous, WeightSource
from ..common.weights.buckets import check_manifest
from ..common.weights.pull.chunks import ChunkLayout
from ..common.weights.pull.pace import Pace
from ..common.weights.pull.puller import Puller
from ..common.weights.pull.server import WeightServer
from ..common.weights.pull.store import ChunkStore
from ..common.weights.shared import SharedBuckets

DEADLINE_S = 3600.0  # of one pull; the next one goes on where it was

log = logging.getLogger(__name__)


def check_serving_host(cfg: Config) -> None:
    """Raise ConfigError when other hosts may belong to the run, and would be told an address that is not of this one."""
    beyond = not is_loopback(cfg.buffer.address.removeprefix("tcp://").rpartition(":")[0])
    if beyond and is_loopback(cfg.weights.host):
        raise ConfigError(
            f"weights.host = {cfg.weights.host!r}: expected this machine's address as other hosts reach it, because they "
            "are to pull weights from here"
        )


def is_pulled(update: UpdateWeights) -> bool:
    """Whether an update is to be pulled, and not the part of a broadcast."""
    return update.rendezvous.transport == PULL


def pull_address(update: UpdateWeights) -> PullAddress | None:
    """None for an update that is not pulled, and for an address that cannot be read: the pull will say why."""
    if not is_pulled(update):
        return None
    try:
        return msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress)
    except msgspec.DecodeError:
        return None


class PulledWeights(NamedTuple):
    """Weights that lie in shared memory now."""

    rendezvous: Rendezvous  # where the engine finds them
    num_bytes: int  # that came over the network
    seconds: float


class Pulling:
    """The pulls of this process, one at a time, and what it serves of them.

    Example:
        pulling = Pulling(cfg.weights, load_client_keys(cfg.buffer.keys), serves=cfg.weights.serve)
        hello = Hello(..., transport=cfg.weights.transport, serves=pulling.source)
        pulled = await pulling.pull(update)
        await engine.apply_weights(msgspec.structs.replace(update, rendezvous=pulled.rendezvous), timeout_s=60.0)
        await pulling.close()
    """

    def __init__(self, cfg: WeightsConfig, keys: ClientKeys | None, *, serves: bool) -> None:
        """`serves`: others may pull from `source`. Raises: AddressInUse, ConfigError."""
        self._serves = serves
        self._server = WeightServer(cfg.host, cfg.port, keys, Pace(cfg.max_mb_s)) if serves else None
        self._puller = Puller(self._make_store, keys, streams=cfg.streams, max_mb_s=cfg.max_mb_s)
        self._shared: SharedBuckets | None = None
        self._complete = b""  # catalog of what it holds
        self._given_up = threading.Event()  # the pull that began last
        self._num_damaged = 0  # chunks that had changed in memory
        if self._server is not None:
            self._server.start()

    @property
    def source(self) -> WeightSource | None:
        """Where others pull from this process."""
        return self._server.source if self._server is not None else None

    @property
    def has_failed(self) -> bool:
        """Whether it was to serve, and does not any more."""
        return self._server is not None and not self._server.is_running

    @property
    def store(self) -> ChunkStore | None:
        """What is held; None before the first pull."""
        return self._puller.store

    def admit(self, readers: WeightReaders) -> None:
        """Let exactly these pull from this process."""
        if self._server is not None:
            self._server.admit(readers.keys)

    async def pull(self, update: UpdateWeights) -> PulledWeights:
        """Have the weights of `update` in shared memory, where they stay until the next call. Cancelling gives the pull up.

        Raises Superseded when only newer ones are to be had, WeightsError when nobody gave them or `give_up` was called.
        """
        self._given_up = given_up = threading.Event()
        try:
            return await asyncio.to_thread(self._pull, update, given_up)
        except asyncio.CancelledError:
            given_up.set()
            self._puller.cancel()
            raise

    def give_up(self) -> None:
        """End the pull under way, if there is one, also before its thread has reached the puller. Never blocks."""
        self._given_up.set()
        self._puller.cancel()

    def counters(self) -> Counter[str]:
        """Of the pulls and of the server, since the start."""
        # their threads go on counting: a copy by `dict` is made in one go
        counters = Counter(dict(self._puller.counters))
        counters["weights/damaged_chunks"] = self._num_damaged
        if self._server is not None:
            counters.update(dict(self._server.counters))
        return counters

    def close(self) -> None:
        """Stop pulling and serving, and let go of the memory. A second call does nothing."""
        self._puller.close()
        if self._server is not None:
            self._server.close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    # --- in the thread of a pull --------------------------------------------------------------------------------------

    def _pull(self, update: UpdateWeights, given_up: threading.Event) -> PulledWeights:
        address, store = pull_address(update), self.store
        if self._shared is not None:
            self._shared.unseal()
        if store is not None and address is not None and address.catalog == self._complete:
            # the same again, because what is held is not believed
            damaged = store.recheck()
            self._num_damaged += len(damaged)
        self._complete = b""
        result = self._puller.pull(update, monotonic() + DEADLINE_S, given_up)
        if self._shared is None:
            raise WeightsError("the process stops pulling")
        assert address is not None, "and it had an address"
        self._complete = address.catalog
        return PulledWeights(self._shared.seal(), result.num_bytes, result.seconds)

    def _make_store(self, manifest: Manifest) -> ChunkStore:
        """Memory for a model of this manifest, in place of that for the last one. Raises WeightsError."""
        check_manifest(manifest)
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        layout = ChunkLayout(manifest)
        log.info("pulled weights take %.1f MB of memory, in chunks: %d", layout.num_bytes / 1e6, len(layout.chunks))
        self._shared = SharedBuckets.allocate(manifest)
        self._shared.unseal()
        store = ChunkStore(layout, self._shared.buckets, keep_deltas=self._serves)
        if self._server is not None:
            self._server.serve(store)
        return store
