"""The two ends of `prolong bench links`, a process each on a host of its own: what serves weights, and what pulls them.

The bench asks a line of JSON at a time on standard input, and gets a line back on standard output.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from time import monotonic

import msgspec
import torch

from ..common.json_object import JsonObject
from ..common.messages import UpdateWeights
from ..common.transport.keys import load_client_keys
from ..common.types import Manifest, PullAddress, Rendezvous
from ..common.weights.buckets import PackedWeights, plan_buckets
from ..common.weights.pull.catalog import catalog_digest
from ..common.weights.pull.chunks import ChunkLayout
from ..common.weights.pull.pace import Pace
from ..common.weights.pull.puller import Puller
from ..common.weights.pull.server import WeightServer
from ..common.weights.pull.store import ChunkStore

WEIGHTS_PORT, PLAIN_PORT = 7100, 7101
PULL_TIMEOUT_S = 600.0
MATRIX = 1 << 20  # elements of each tensor


class ServingEnd:
    """The learner's end: bfloat16 weights of which some elements move by one step of their dtype with each version."""

    def __init__(self, address: str, keys: str, mb: float, changed: float) -> None:
        count = max(1, round(mb * 1e6 / 2 / MATRIX))
        self.manifest = plan_buckets([(f"w{number}", "bfloat16", [MATRIX]) for number in range(count)], 256 << 20)
        self.random = torch.Generator().manual_seed(0)
        self.buckets = [self._fresh(bucket.num_bytes) for bucket in self.manifest.buckets]
        self.store = empty_store(self.manifest)
        self.changed, self.version = changed, -1
        self.server = WeightServer(address, WEIGHTS_PORT, load_client_keys(keys), Pace(0.0))
        allowed = sorted((Path(keys).parent.parent / "allowed").glob("*.pub"))
        self.server.admit([path.read_text().strip() for path in allowed])
        self.server.serve(self.store)
        self.server.start()
        listener = socket.create_server((address, PLAIN_PORT))
        threading.Thread(target=serve_plain, args=(listener,), daemon=True).start()

    def _fresh(self, num_bytes: int) -> torch.Tensor:
        weights = torch.randn(num_bytes // 2, generator=self.random) * 0.02
        return weights.to(torch.bfloat16).view(torch.uint8)

    def step(self) -> JsonObject:
        """Make the next version; returns its update."""
        self.version += 1
        for flat in self.buckets:
            words = flat.view(torch.int16)
            moves = torch.rand(words.numel(), generator=self.random)
            words[moves < self.changed / 2] += 1
            words[moves > 1 - self.changed / 2] -= 1
        copies = [flat.clone() for flat in self.buckets]
        stats = self.store.advance(PackedWeights(version=self.version, manifest=self.manifest, buckets=copies))
        encoded = self.store.catalog(self.version)
        assert encoded is not None
        address = PullAddress(catalog=catalog_digest(encoded), sources=[self.server.source])
        rendezvous = Rendezvous(transport="pull", address=msgspec.msgpack.encode(address))
        update = UpdateWeights(
            generation=1,
            version=self.version,
            epoch=-1,
            member=0,
            num_members=1,
            rendezvous=rendezvous,
            manifest=self.manifest,
        )
        return {"update": msgspec.json.encode(update).decode(), "full_bytes": stats.full_bytes}


class PullingEnd:
    """The actor's end: one puller that stays and fetches deltas, and newcomers that fetch everything."""

    def __init__(self, address: str, keys: str) -> None:
        self.keys, self.address = load_client_keys(keys), address
        self.resident: Puller | None = None
        self.plain: socket.socket | None = None

    def begin(self, streams: int) -> JsonObject:
        """Forget everything: the resident of other conditions."""
        for former in (self.resident, self.plain):
            if former is not None:
                former.close()
        self.plain = socket.create_connection((self.address, PLAIN_PORT), timeout=PULL_TIMEOUT_S)
        self.streams = streams
        self.resident = self._puller()
        return {}

    def delta(self, update: str) -> JsonObject:
        """Pull with the resident: in full at first, by deltas afterwards."""
        assert self.resident is not None
        return pull(self.resident, update)

    def full(self, update: str) -> JsonObject:
        """Pull as a newcomer, who has to connect first."""
        puller = self._puller()
        try:
            return pull(puller, update)
        finally:
            puller.close()

    def stream(self, num_bytes: int) -> JsonObject:
        """Receive as much through a plain TCP connection that stays."""
        assert self.plain is not None
        started = monotonic()
        self.plain.sendall(num_bytes.to_bytes(8, "big"))
        while num_bytes:
            num_bytes -= len(self.plain.recv(min(num_bytes, 1 << 20)))
        return {"seconds": monotonic() - started}

    def _puller(self) -> Puller:
        return Puller(empty_store, self.keys, streams=self.streams)


def pull(puller: Puller, update: str) -> JsonObject:
    decoded = msgspec.json.decode(update, type=UpdateWeights)
    started = monotonic()
    result = puller.pull(decoded, started + PULL_TIMEOUT_S)
    return {"seconds": monotonic() - started, "num_bytes": result.num_bytes, "lost": puller.counters["weights/lost_sources"]}


def empty_store(manifest: Manifest) -> ChunkStore:
    return ChunkStore(ChunkLayout(manifest), [torch.zeros(bucket.num_bytes, dtype=torch.uint8) for bucket in manifest.buckets])


def serve_plain(listener: socket.socket) -> None:
    """Send as many bytes as each request says, on one connection after the other."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer_plain, args=(connection,), daemon=True).start()


def answer_plain(connection: socket.socket) -> None:
    with connection:
        while request := connection.recv(8, socket.MSG_WAITALL):
            connection.sendall(bytes(int.from_bytes(request, "big")))


def run_end(argv: list[str]) -> None:
    """`serve ADDRESS KEYS MB CHANGED` or `pull ADDRESS KEYS`: answer questions until standard input ends."""
    torch.set_num_threads(1)
    kind, address, keys, *sizes = argv
    end = ServingEnd(address, keys, *map(float, sizes)) if kind == "serve" else PullingEnd(address, keys)
    say_json({})
    for line in sys.stdin:
        name, *arguments = msgspec.json.decode(line)
        say_json(getattr(end, name)(*arguments))


def say_json(answer: JsonObject) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_end(sys.argv[1:])
