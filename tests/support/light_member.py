"""An actor without an engine, in a process of its own: the real client, the real downloader, and faults on command.

    parent --Pipe--> Fault, "state"          member --Pipe--> ("fault", s), ("holds", ...), ("state", ...)

Times are `monotonic`, which all processes of a machine share. A new member is forked by a fork server that has imported torch.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import torch
from prolong.actor.weight_download import DownloadResult, WeightDownloader
from prolong.buffer.client.client import BufferClient
from prolong.common.errors import DeadlineExceeded, ProlongError
from prolong.common.messages import Hello, UpdateWeights, WeightsApplied
from prolong.common.types import Manifest
from prolong.common.weights import collective
from prolong.common.weights.buckets import bucket_views, checksum, fill_bucket
from prolong.common.weights.collective_group import WeightsGroup

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fault:
    """A fault that happens once, before this bucket or, with -1, before the member joins its group. `late_s`: for "late"."""

    kind: str  # kill, stop, corrupt, truncated, overlapping, never, late, wrong_epoch, allocation
    bucket: int = -1
    late_s: float = 0.0


class FaultyGroup(WeightsGroup):
    """A process group in which the armed fault of this process happens."""

    armed: Fault | None = None
    pipe: Connection
    num_received = 0  # buckets of the download under way

    @classmethod
    def trip(cls, bucket: int, *kinds: str) -> Fault | None:
        fault = FaultyGroup.armed
        if fault is None or fault.kind not in kinds or fault.bucket != bucket:
            return None
        report(FaultyGroup.pipe)
        if fault.kind in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        return fault

    @classmethod
    def join(cls, *args: Any, **kwargs: Any) -> WeightsGroup:
        if fault := cls.trip(-1, "kill", "stop", "late"):
            time.sleep(fault.late_s)
        return super().join(*args, **kwargs)

    def broadcast(self, flat: torch.Tensor, timeout_s: float | None = None) -> None:
        index = FaultyGroup.num_received
        self.trip(index, "kill", "stop")
        if self.trip(index, "allocation"):
            raise RuntimeError("out of memory")
        super().broadcast(flat, timeout_s)
        if self.trip(index, "corrupt"):
            flat[flat.numel() // 2] ^= 16
        FaultyGroup.num_received += 1


def report(pipe: Connection) -> None:
    """Tell the parent that the armed fault happens now."""
    FaultyGroup.armed = None
    pipe.send(("fault", time.monotonic()))


class LightMember:
    """Holds weights of one version, as an engine does: it reports those with which it would generate."""

    def __init__(self, address: str, hello: Hello, timeout_s: float, pipe: Connection) -> None:
        self.pipe, self.timeout_s = pipe, timeout_s
        self.client = BufferClient(address, hello, max_bytes=1 << 22)
        self.inbox = self.client.inbox(UpdateWeights)
        self.downloader = WeightDownloader(CPU)
        self.update: UpdateWeights | None = None
        self.generation, self.version = -1, -1
        self.manifest = Manifest(buckets=[])
        self.model: dict[str, torch.Tensor] = {}

    def run(self) -> None:
        self.client.connect(30.0)
        while True:
            self._command()
            try:
                offered = self.inbox.take(0.02 if self.update is None else 0.0)
            except DeadlineExceeded:
                offered = None
            if offered is not None:
                self._begin(offered)
            if self.update is not None:
                result = self.downloader.result(0.005)
                if result is not None:
                    self._apply(self.update, result)

    def _command(self) -> None:
        while self.pipe.poll():
            command = self.pipe.recv()
            if isinstance(command, Fault):
                FaultyGroup.armed = command
            sums = [checksum(fill_bucket(bucket, self.model)) for bucket in self.manifest.buckets]
            self.pipe.send(("state", self.generation, self.version, sums))

    def _begin(self, update: UpdateWeights) -> None:
        fault = FaultyGroup.armed
        if fault is not None and fault.kind == "never":
            report(self.pipe)
            return
        if fault is not None and fault.kind in ("truncated", "overlapping"):
            report(self.pipe)
            update = msgspec.structs.replace(update, manifest=spoil(update.manifest, fault.kind))
        self.update = update
        FaultyGroup.num_received = 0
        self.downloader.start(update, self.timeout_s)

    def _apply(self, update: UpdateWeights, result: DownloadResult) -> None:
        self.update = None
        sums, error = result
        if not error:
            for bucket, flat in zip(update.manifest.buckets, self.downloader.take_buckets(), strict=True):
                self.model |= {name: tensor.clone() for name, tensor in bucket_views(bucket, flat)}
            self.generation, self.version, self.manifest = update.generation, update.version, update.manifest
            self.pipe.send(("holds", self.version, sums, time.monotonic()))
        epoch, fault = update.epoch, FaultyGroup.armed
        if fault is not None and fault.kind == "wrong_epoch":
            report(self.pipe)
            epoch -= 1
        answer = {"generation": update.generation, "version": update.version, "epoch": epoch, "error": error}
        self.client.send(WeightsApplied(**answer, checksums=sums, seconds=0.0))


def spoil(manifest: Manifest, kind: str) -> Manifest:
    """The manifest without its last bucket, or with a tensor that reaches out of its bucket."""
    if kind == "truncated":
        return Manifest(buckets=manifest.buckets[:-1])
    first = manifest.buckets[0]
    shifted = [msgspec.structs.replace(first.tensors[0], offset=16), *first.tensors[1:]]
    return Manifest(buckets=[msgspec.structs.replace(first, tensors=shifted), *manifest.buckets[1:]])


def run_member(address: str, hello: Hello, timeout_s: float, pipe: Connection) -> None:
    """The entry of the process. It ends when its parent's pipe or the buffer does."""
    torch.set_num_threads(1)
    FaultyGroup.pipe = pipe
    collective.WeightsGroup = FaultyGroup
    try:
        LightMember(address, msgspec.structs.replace(hello, pid=os.getpid()), timeout_s, pipe).run()
    except (ProlongError, EOFError, BrokenPipeError):
        os._exit(0)
