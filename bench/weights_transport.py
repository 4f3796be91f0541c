"""Weights that are broadcast against weights that are pulled, between the same learner and actor, on this machine.

Two runs side by side, each with a buffer, a learner's publisher and an actor in a process of its own: one broadcasts, the other
offers. They take turns (A B C A B C): a broadcast of a version, a pull of the same version, and a pull of one in which every
element is another, so that it is fetched in full. From version to version the weights change as by AdamW with --lr: float32
masters, sent in --dtype. Seconds are from `publish` to the actor's acknowledgement, with the bytes in host memory as an engine
reads them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter, process_time

import msgspec
import torch
from torch import Tensor

from ..actor.pulling import Pulling
from ..actor.weight_download import WeightDownloader
from ..buffer.client.client import BufferClient
from ..buffer.client.inbox import Inbox
from ..common.config.sections import WeightsConfig
from ..common.messages import (
    PROTOCOL_VERSION,
    Hello,
    OfferNoted,
    PublishPlan,
    PublishResult,
    Role,
    SyncRequested,
    UpdateWeights,
    WeightReaders,
    WeightsApplied,
)
from ..common.models import DTYPES
from ..common.types import PULL, PullAddress
from ..common.weights.transports import COLLECTIVE, configured_transport
from ..learner.weights.offering import WeightOffering
from ..learner.weights.packer import WeightPacker
from ..learner.weights.publisher import PackingPublisher, WeightCarrier
from ..learner.weights.sender import WeightSender
from .measure import report
from .transport import MAX_BENCH_BYTES, start_server, stop_server

TIMEOUT_S = 300.0
SIDE = 2048  # of a matrix
KINDS = ("broadcast", "pulled", "pulled in full")


def greeting(role: Role, transport: str) -> Hello:
    """A client of the benches' buffer."""
    version = 0 if role is Role.learner else -1
    about = {"name": role.value, "tokenizer": "t", "host": "h", "pid": os.getpid(), "version": version}
    return Hello(role=role, protocol=PROTOCOL_VERSION, transport=transport, **about)


def serve_actor(pipe: Connection, address: str, transport: str) -> None:
    """Apply every update; says when, and how much CPU time this process has used."""
    torch.set_num_threads(1)
    client = BufferClient(address, greeting(Role.actor, transport), max_bytes=MAX_BENCH_BYTES)
    updates = client.inbox(UpdateWeights)
    client.connect(TIMEOUT_S)
    downloader = WeightDownloader(torch.device("cpu"))
    pulling = Pulling(WeightsConfig(), None, serves=False) if transport == PULL else None
    pipe.send(process_time())
    while True:
        update = updates.take(TIMEOUT_S)
        about = {"generation": update.generation, "version": update.version, "epoch": update.epoch, "seconds": 0.0}
        if pulling is not None:
            catalog = msgspec.msgpack.decode(update.rendezvous.address, type=PullAddress).catalog
            pulled = asyncio.run(pulling.pull(update))
            update = msgspec.structs.replace(update, rendezvous=pulled.rendezvous)
            about |= {"num_bytes": pulled.num_bytes, "pull_s": pulled.seconds, "catalog": catalog}
        downloader.start(update, TIMEOUT_S)
        result = downloader.result(TIMEOUT_S)
        if result is None or result.error:
            raise RuntimeError(f"version {update.version} was not applied: {result}")
        applied_s = perf_counter()
        client.send(WeightsApplied(checksums=result.checksums, **about))
        pipe.send((update.version, applied_s, about.get("num_bytes", 0), about.get("pull_s", 0.0)))
        downloader.take_buckets()
        pipe.send(process_time())


@dataclass(frozen=True, slots=True)
class Update:
    """What one version cost."""

    seconds: float  # from publish to applied
    critical_s: float  # of them, in the caller
    learner_cpu_s: float
    actor_cpu_s: float
    num_bytes: int  # that were pulled
    pull_s: float  # from the first request to the last checked chunk
    encode_s: float  # before it was offered


class Way:
    """A buffer, a learner's publisher, and an actor that gets its weights by one transport."""

    def __init__(self, folder: Path, transport: str, specs: list[tuple[str, torch.dtype, tuple[int, ...]]]) -> None:
        cfg = WeightsConfig(transport=transport, timeout_s=TIMEOUT_S)
        self._server, address = start_server("prolong.bench.ingest", "--serve", str(folder), "--batch", "1")
        self._client = BufferClient(address, greeting(Role.learner, transport), max_bytes=MAX_BENCH_BYTES)
        packer = WeightPacker(specs, cfg.bucket_mb << 20)
        readers: Inbox[WeightReaders | OfferNoted | SyncRequested] = self._client.inbox(WeightReaders, OfferNoted)
        plans = self._client.inbox(PublishPlan, PublishResult, SyncRequested)
        self._client.connect(TIMEOUT_S)
        self.carrier: WeightCarrier
        if transport == PULL:
            self.carrier = WeightOffering(self._client, readers, packer, cfg, None)
        else:
            end = configured_transport(cfg).open_learner_end(cfg, torch.device("cpu"))
            self.carrier = WeightSender(self._client, plans, end, packer, cfg)
        self._publisher = PackingPublisher(packer, [self.carrier])
        self._publisher.start()
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._actor: BaseProcess = context.Process(target=serve_actor, args=(theirs, address, transport), daemon=True)
        self._actor.start()
        theirs.close()
        self._actor_cpu_s = self._hear()

    def _hear(self):
        if not self._pipe.poll(TIMEOUT_S):
            raise RuntimeError("the actor says nothing")
        return self._pipe.recv()

    def update(self, version: int, tensors: dict[str, Tensor]) -> Update:
        """Publish, and wait until the actor has it."""
        cpu_started, started = process_time(), perf_counter()
        self._publisher.publish(version, tensors.items())
        critical_s = perf_counter() - started
        got, applied_s, num_bytes, pull_s = self._hear()
        if got != version:
            raise RuntimeError(f"the actor applied version {got}: expected {version}")
        actor_cpu_s, before_s = self._hear(), self._actor_cpu_s
        self._actor_cpu_s = actor_cpu_s
        if isinstance(self.carrier, WeightSender):
            # it compares checksums
            self.carrier.wait_idle(TIMEOUT_S)
        return Update(
            seconds=applied_s - started,
            critical_s=critical_s,
            learner_cpu_s=process_time() - cpu_started,
            actor_cpu_s=actor_cpu_s - before_s,
            num_bytes=num_bytes,
            pull_s=pull_s,
            encode_s=self.carrier.metrics().get("weights/encode_s", 0.0),
        )

    def close(self) -> None:
        """End the processes."""
        self._actor.terminate()
        self._actor.join()
        self._publisher.close()
        self._client.close()
        stop_server(self._server)


class Masters:
    """float32 parameters that change as by AdamW, and what is sent of them."""

    def __init__(self, millions: float, dtype: torch.dtype, lr: float) -> None:
        number = max(1, round(millions * 1e6 / SIDE**2))
        self._dtype, self._lr = dtype, lr
        self._generator = torch.Generator().manual_seed(0)
        self._masters = [torch.randn(SIDE, SIDE, generator=self._generator).mul_(0.02) for _ in range(number)]
        self.specs = [(f"layer.{index}.weight", dtype, (SIDE, SIDE)) for index in range(number)]

    def step(self) -> None:
        """One update, of at most the learning rate for most elements."""
        for master in self._masters:
            master.add_(torch.randn(master.shape, generator=self._generator).clamp_(-1, 1), alpha=self._lr)

    def sent(self) -> dict[str, Tensor]:
        """What is sent."""
        return {name: master.to(self._dtype) for (name, _, _), master in zip(self.specs, self._masters, strict=True)}

    def unrelated(self) -> dict[str, Tensor]:
        """Weights that have nothing to do with these."""
        return {name: torch.randn(shape, generator=self._generator).to(dtype) for name, dtype, shape in self.specs}


@contextmanager
def _ways(masters: Masters) -> Iterator[dict[str, Way]]:
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Way] = {}
        try:
            for transport in (COLLECTIVE, PULL):
                ways[transport] = Way(Path(folder) / transport, transport, masters.specs)
            yield ways
        finally:
            for way in ways.values():
                way.close()


def compare_transports(millions: float, dtype: str, lr: float, rounds: int) -> dict[str, object]:
    """Medians over the rounds, for each kind of update."""
    masters = Masters(millions, DTYPES[dtype], lr)
    costs: dict[str, list[Update]] = defaultdict(list)
    with _ways(masters) as ways:
        tensors = masters.sent()
        for transport in (COLLECTIVE, PULL):
            ways[transport].update(0, tensors)  # connect, and the first snapshot
        for turn in range(rounds):
            masters.step()
            tensors = masters.sent()
            costs["broadcast"].append(ways[COLLECTIVE].update(turn + 1, tensors))
            costs["pulled"].append(ways[PULL].update(3 * turn + 1, tensors))
            costs["pulled in full"].append(ways[PULL].update(3 * turn + 2, masters.unrelated()))
            # back, so that the next delta is one of a step
            ways[PULL].update(3 * turn + 3, tensors)
    result: dict[str, object] = {"megabytes": round(sum(t.numel() * t.itemsize for t in tensors.values()) / 1e6, 1), "lr": lr}
    for kind in KINDS:
        for field in fields(Update):
            result[f"{kind}, {field.name}"] = statistics.median(getattr(cost, field.name) for cost in costs[kind])
    return result


def main(argv: list[str] | None = None) -> int:
    """Print medians."""
    parser = argparse.ArgumentParser(prog="prolong bench weights-transport", description=__doc__)
    parser.add_argument("--millions", type=float, default=100.0, help="parameters")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report(compare_transports(args.millions, args.dtype, args.lr, args.rounds), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
