"""Fetches a version of the weights into a ChunkStore, from the best source that has it, at whatever speed the link allows.

    UpdateWeights --Puller.pull--> Pull: catalog, missing chunks --Link--> bodies --> ChunkStore --finish--> PullResult

What came before stays: after a cut, or with a newer version, only what is missing is fetched.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import msgspec
import zmq

from ...errors import WeightsError
from ...messages import UpdateWeights
from ...transport.keys import ClientKeys
from ...types import Manifest, PullAddress, WeightSource
from ..buckets import check_manifest
from .link import Link
from .one_pull import Pull, PullResult
from .origin import Origin
from .pace import Pace
from .store import ChunkStore
from .window import Window

_addresses = msgspec.msgpack.Decoder(PullAddress)


class Puller:
    """Pulls weights into stores that `store_factory` makes, one for each manifest. One thread at a time calls `pull`.

    Example:
        puller = Puller(make_store, load_client_keys(cfg.buffer.keys), streams=1, max_mb_s=0.0)
        result = puller.pull(update, monotonic() + 600.0)     # blocks; puller.store holds update.version then
        puller.close()
    """

    def __init__(
        self,
        store_factory: Callable[[Manifest], ChunkStore],
        keys: ClientKeys | None,
        *,
        streams: int = 1,
        max_mb_s: float = 0.0,
    ) -> None:
        """`keys`: this process's own client pair; None where the run has none. `streams`, `max_mb_s`: as in WeightsConfig.

        A process that serves what it pulls calls WeightServer.serve in the factory: others can fetch chunks that arrived
        while the rest is on its way.
        """
        self.counters: Counter[str] = Counter()
        self.store: ChunkStore | None = None
        self._store_factory, self._keys, self._num_streams = store_factory, keys, streams
        self._manifest: Manifest | None = None
        self._pace = Pace(max_mb_s)
        self._context = zmq.Context()
        self._origins: dict[WeightSource, Origin] = {}
        self._request = 0
        self._pulling = threading.Lock()
        self._cancelled = threading.Event()
        self._closed = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def cancel(self) -> None:
        """End the pull that is under way, if there is one, with WeightsError. Any thread; does not wait for it."""
        self._cancelled.set()
        with suppress(OSError):  # a byte is there already, or the puller is closed
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        """End the pull that is under way, and disconnect. A second call does nothing."""
        self._closed = True
        self.cancel()
        with self._pulling:
            for origin in self._origins.values():
                origin.disconnect()
            self._origins.clear()
            self._context.term()
            self._wake_reader.close()
            self._wake_writer.close()

    def pull(self, update: UpdateWeights, deadline: float, given_up: threading.Event | None = None) -> PullResult:
        """Fetch `update.version`. Blocks until `store` holds all of it, proved by its digests. `deadline` is of monotonic().

        What came before an error stays in the store, for the next call. `given_up`: set before `cancel`, it ends this pull
        also where the other thread calls it too early. Raises: Superseded when the sources have only a newer version;
        WeightsError when no source gave it in time, or after `cancel`.
        """
        with self._pulling:
            # in this order: `close` and `cancel` may come from another thread in between
            self._cancelled.clear()
            if self._closed:
                raise WeightsError("the puller is closed")
            if given_up is not None and given_up.is_set():
                raise WeightsError(f"the pull of version {update.version} was cancelled before it began")
            with suppress(BlockingIOError):
                self._wake_reader.recv(4096)
            address = _pull_address(update)
            store, origins = self._store_for(update.manifest), self._origins_for(address)
            pull = Pull(store, update.version, address.catalog, origins, self._connect, self.counters)
            return pull.run(deadline, self._wake_reader, self._cancelled)

    def _store_for(self, manifest: Manifest) -> ChunkStore:
        if self.store is None or manifest != self._manifest:
            check_manifest(manifest)
            self.store, self._manifest = self._store_factory(manifest), manifest
        return self.store

    def _origins_for(self, address: PullAddress) -> list[Origin]:
        for source in self._origins.keys() - set(address.sources):
            self._origins.pop(source).disconnect()
        for source in address.sources:
            if source not in self._origins:
                self._origins[source] = Origin(source, Window(self._num_streams, self._pace.rate))
            self._origins[source].begin()
        return [self._origins[source] for source in dict.fromkeys(address.sources)]

    def _connect(self, origin: Origin) -> Link:
        """The connections to a source, ready for another pull. Raises SourceLost."""
        self._request += 1

        def connect() -> Link:
            return Link(self._context, origin.source, self._keys, origin.window, self._num_streams, self._pace)

        link = origin.connected(connect)
        link.begin(self._request)
        return link


def _pull_address(update: UpdateWeights) -> PullAddress:
    try:
        return _addresses.decode(update.rendezvous.address)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WeightsError(f"the address of version {update.version} is none for pulling: {error}") from error
