"""Snapshots over the socket of pulled weights on loopback: megabytes and CPU seconds, with and without encryption, by streams.

    prolong bench weights-socket [--mb 1024] [--streams 1 4] [--rounds 3] [--json]

One process serves random bytes, another pulls them into an empty store and compares the digest of every chunk. Rounds take
turns. CPU seconds are those of each whole process; `serving thread` is the part of the server's that may hold the interpreter's
lock, which a learner in the same process would have to wait for: encryption and transfer are in ZeroMQ's own thread.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import monotonic, perf_counter, process_time
from typing import Protocol

import msgspec
import torch
import zmq

from ..common.messages import UpdateWeights
from ..common.transport.keys import ClientKeys
from ..common.types import PULL, PullAddress, Rendezvous
from ..common.weights.buckets import PackedWeights, plan_buckets
from ..common.weights.pull.catalog import catalog_digest
from ..common.weights.pull.pace import Pace
from ..common.weights.pull.puller import Puller
from ..common.weights.pull.server import WeightServer
from .link_ends import empty_store
from .measure import report

BUCKET_BYTES = 256 << 20
TIMEOUT_S = 600.0


def serve_random(pipe: Connection, mb: int, secret: bytes, admitted: str) -> None:
    """Serve `mb` megabytes until the pipe closes; answers every message with the CPU seconds used."""
    torch.set_num_threads(1)
    specs = [(f"layer.{number}", "bfloat16", (1 << 20, 8)) for number in range(max(1, round(mb / 16)))]
    manifest = plan_buckets(specs, BUCKET_BYTES)
    generator = torch.Generator().manual_seed(0)
    sizes = [bucket.num_bytes for bucket in manifest.buckets]
    filled = [torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator) for size in sizes]
    store = empty_store(manifest)
    store.advance(PackedWeights(version=0, manifest=manifest, buckets=filled))
    keys = ClientKeys(secret=secret, public=zmq.curve_public(secret), buffer=b"") if secret else None
    server = WeightServer("127.0.0.1", 0, keys, Pace(0.0))
    server.admit([admitted] if admitted else [])
    server.serve(store)
    server.start()
    encoded = store.catalog(0)
    assert encoded is not None
    address = PullAddress(catalog=catalog_digest(encoded), sources=[server.source])
    rendezvous = Rendezvous(transport=PULL, address=msgspec.msgpack.encode(address))
    about = {"generation": 1, "version": 0, "epoch": -1, "member": 0, "num_members": 1}
    pipe.send_bytes(msgspec.msgpack.encode(UpdateWeights(rendezvous=rendezvous, manifest=manifest, **about)))
    while pipe.recv_bytes():
        pipe.send_bytes(msgspec.msgpack.encode((process_time(), server.cpu_s)))
    server.close()


class SocketServer:
    """A process that serves, and the keys to pull from it."""

    def __init__(self, mb: int, *, keyed: bool) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        public, secret = zmq.curve_keypair()
        self.keys = ClientKeys(secret=secret, public=public, buffer=b"") if keyed else None
        served_by = zmq.curve_keypair()[1] if keyed else b""
        admitted = public.decode() if keyed else ""
        self._process = context.Process(target=serve_random, args=(theirs, mb, served_by, admitted), daemon=True)
        self._process.start()
        theirs.close()
        self.update = msgspec.msgpack.decode(self._hear(), type=UpdateWeights)

    def _hear(self) -> bytes:
        if not self._pipe.poll(TIMEOUT_S):
            raise RuntimeError("the server says nothing")
        return self._pipe.recv_bytes()

    def cpu_s(self) -> tuple[float, float]:
        """Of the process, and of its serving thread."""
        self._pipe.send_bytes(b"?")
        return msgspec.msgpack.decode(self._hear(), type=tuple[float, float])

    def close(self) -> None:
        self._pipe.send_bytes(b"")
        self._process.join(TIMEOUT_S)


class SnapshotServer(Protocol):
    """What a pull is measured against; the tests have one in their own process."""

    keys: ClientKeys | None
    update: UpdateWeights

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far, of the process and of the thread that serves."""
        ...


def pull_once(server: SnapshotServer, streams: int) -> dict[str, float]:
    """One snapshot into an empty store. CPU seconds are for a gigabyte."""
    puller = Puller(empty_store, server.keys, streams=streams)
    before, started, cpu_started = server.cpu_s(), perf_counter(), process_time()
    try:
        result = puller.pull(server.update, monotonic() + TIMEOUT_S)
    finally:
        seconds, cpu_s = perf_counter() - started, process_time() - cpu_started
        puller.close()
    after, gigabytes = server.cpu_s(), result.num_bytes / 1e9
    return {
        "MB/s": result.num_bytes / 1e6 / seconds,
        "puller": cpu_s / gigabytes,
        "server": (after[0] - before[0]) / gigabytes,
        "serving thread": (after[1] - before[1]) / gigabytes,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print medians."""
    parser = argparse.ArgumentParser(
        prog="prolong bench weights-socket", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=1024, help="of one snapshot")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    servers = {keyed: SocketServer(args.mb, keyed=keyed) for keyed in (False, True)}
    ways = list(itertools.product(servers, args.streams))
    pulls = {way: [] for way in ways}
    for _ in range(args.rounds):
        for keyed, streams in ways:
            pulls[keyed, streams].append(pull_once(servers[keyed], streams))
    for server in servers.values():
        server.close()
    figures: dict[str, object] = {"megabytes": args.mb}
    for (keyed, streams), rows in pulls.items():
        for name in rows[0]:
            unit = "" if name == "MB/s" else " CPU s per GB"
            kind = f"{'encrypted' if keyed else 'plain'}, {streams} streams"
            figures[f"{kind}, {name}{unit}"] = round(statistics.median(row[name] for row in rows), 3)
    report(figures, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
