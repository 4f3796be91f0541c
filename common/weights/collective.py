"""Weights by collective broadcast: for every epoch of members a process group of its own, with the learner as rank 0.

    learner: WeightsStore (a TCPStore)   rendezvous = its host and port
    plan --> join the group of its epoch, unless already in it --> broadcast every bucket

A group outlives a broadcast: the next plan of the same epoch uses it again. A group breaks for all of its members once it broke
for one, so an error ends the epoch. `collective_group.py` holds the group itself, and chooses for each between NCCL and gloo.
With NCCL a bucket passes through one buffer on the GPU: the learner copies it there from host memory before it is sent, and an
actor's caller copies it away. Neither encrypted nor authenticated: docs/security.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from itertools import pairwise
from time import perf_counter
from typing import Annotated

import msgspec
import torch

from ..config.sections import WeightsConfig
from ..errors import WeightsError
from ..messages import PublishPlan, UpdateWeights
from ..types import Manifest, Rendezvous, Word
from .buckets import PackedWeights, manifest_digest
from .collective_group import Medium, WeightsGroup, WeightsStore
from .gpu_memory import host_buffer, own_stream

log = logging.getLogger(__name__)

NAME = "collective"
JOIN_FACTOR = 1.5  # of an actor's deadline: rank 0 gives up first, and tells the others
MAX_NCCL_FAILURES = 4  # publishes in a row that fail, until the learner gives NCCL up and sends through host memory

Epoch = tuple[int, int]  # (generation, epoch); each has a process group of its own


class CollectiveRendezvous(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the learner's TCPStore listens."""

    host: Word
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class CollectiveTransport:
    """`weights.transport: collective`."""

    def open_learner_end(self, cfg: WeightsConfig, device: torch.device) -> CollectiveLearnerEnd:
        """Listens on `weights.host`. Raises WeightsError when that is no address of this machine."""
        return CollectiveLearnerEnd(WeightsStore.listen(cfg.host, timeout_s=cfg.timeout_s), device)

    def open_actor_end(self, device: torch.device) -> CollectiveActorEnd:
        return CollectiveActorEnd(device)


class CollectiveLearnerEnd:
    """Rank 0 of every group. Contract: `api.LearnerEnd`."""

    def __init__(self, store: WeightsStore, device: torch.device) -> None:
        address = msgspec.msgpack.encode(CollectiveRendezvous(host=store.host, port=store.port))
        self._rendezvous = Rendezvous(transport=NAME, address=address)
        self._store, self._device = store, device
        self._group: WeightsGroup | None = None
        self._epoch: Epoch | None = None  # of `_group`
        self._medium: Medium | None = None  # of the group joined last
        self._num_failed = 0  # publishes in a row, unless NCCL was given up
        self._buffer: torch.Tensor | None = None  # on the GPU, for one bucket after the other

    @property
    def rendezvous(self) -> Rendezvous:
        return self._rendezvous

    def publish(self, plan: PublishPlan, weights: PackedWeights, phase_timeout_s: float) -> list[float]:
        """Phases: the join (about 0 s when the group is joined already), then each bucket."""
        times = [perf_counter()]
        try:
            with own_stream(self._device):
                group = self._group_of(plan, weights.manifest, phase_timeout_s)
                times.append(perf_counter())
                for flat in weights.buckets:
                    group.broadcast(self._on(group.device, flat, weights.manifest), phase_timeout_s)
                    times.append(perf_counter())
        except (WeightsError, RuntimeError) as error:  # RuntimeError: torch's, out of memory included
            self._num_failed += 1
            self.disconnect()
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"weights of version {weights.version} could not be sent: {error}") from error
        if not self._nccl_given_up:
            self._num_failed = 0
        return [end - start for start, end in pairwise(times)]

    def _on(self, device: torch.device, flat: torch.Tensor, manifest: Manifest) -> torch.Tensor:
        """A bucket where the group wants it."""
        if flat.device == device:
            return flat
        if self._buffer is None or len(self._buffer) < flat.numel():
            self._buffer = torch.empty(largest_bucket(manifest), dtype=torch.uint8, device=device)
        return self._buffer[: flat.numel()].copy_(flat, non_blocking=True)

    def _group_of(self, plan: PublishPlan, manifest: Manifest, timeout_s: float) -> WeightsGroup:
        epoch = plan.generation, plan.epoch
        if self._group is not None and self._epoch == epoch:
            return self._group
        self.disconnect()
        self._group = WeightsGroup.join(
            self._store.host,
            self._store.port,
            generation=plan.generation,
            epoch=plan.epoch,
            rank=0,
            world_size=len(plan.members) + 1,
            device=self._device,
            timeout_s=timeout_s,
            digest=manifest_digest(manifest),
            through_host=self._nccl_given_up,
        )
        self._epoch = epoch
        self._note_medium(self._group.medium)
        return self._group

    @property
    def _nccl_given_up(self) -> bool:
        """Stays so: a link between two GPUs that NCCL cannot use does not heal, and each try costs a publish."""
        return self._num_failed >= MAX_NCCL_FAILURES

    def _note_medium(self, medium: Medium) -> None:
        if medium is not self._medium and self._device.type == "cuda":
            how = "by NCCL, from GPU to GPU" if medium is Medium.nccl else "by gloo, through host memory"
            why = f" after {self._num_failed} failures in a row" if self._nccl_given_up else ""
            log.info("weights travel %s%s", how, why)
        self._medium = medium

    def disconnect(self) -> None:
        group, self._group, self._epoch = self._group, None, None
        if group is not None:
            group.close()

    def close(self) -> None:
        self.disconnect()
        self._store.close()


class CollectiveActorEnd:
    """Rank `member + 1` of the groups that it joins. Contract: `api.ActorEnd`.

    A download takes the group out of `_idle_group` while it uses it, and puts it back at its end. A download that its caller
    gave up on finds that another one has begun, and closes its group instead. Over NCCL the other one does that for it: until
    then a kernel would wait on the GPU, and the engine's next pause for that kernel.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._idle_group: WeightsGroup | None = None
        self._busy_group: WeightsGroup | None = None  # of the download begun last, once it has one
        self._epoch: Epoch | None = None  # of the download begun last, and of `_idle_group`
        self._busy = False  # that download goes on
        self._num_downloads = 0  # begun so far
        self._closed = False

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        group, number = self._begin(update)
        try:
            if group is None:
                group = self._join(update, JOIN_FACTOR * phase_timeout_s)
            self._note_group(group, number)
            buffer = torch.empty(0, dtype=torch.uint8, device=group.device)
            if group.medium is Medium.nccl:
                buffer = torch.empty(largest_bucket(update.manifest), dtype=torch.uint8, device=group.device)
            for bucket in update.manifest.buckets:
                flat = buffer[: bucket.num_bytes] if len(buffer) else host_buffer(bucket.num_bytes, self._device)
                group.broadcast(flat, phase_timeout_s)
                yield flat
        except BaseException:  # GeneratorExit too: the caller failed
            self._end(number)
            if group is not None:
                group.fail()
            raise
        self._end(number, reusable=group)

    def _begin(self, update: UpdateWeights) -> tuple[WeightsGroup | None, int]:
        """(the group of the update's epoch if it was joined before, the number of this download)."""
        epoch = update.generation, update.epoch
        with self._lock:
            if self._busy and epoch == self._epoch:
                # two broadcasts in one group would take each other's bytes
                raise WeightsError(f"version {update.version} offered in epoch {update.epoch}, whose broadcast goes on")
            group, self._idle_group = self._idle_group, None
            if group is not None and epoch != self._epoch:
                group.close()
                group = None
            hanging, self._busy_group = self._busy_group, None
            if hanging is not None and hanging.medium is Medium.nccl:
                hanging.close()
            self._epoch, self._busy = epoch, True
            self._num_downloads += 1
            return group, self._num_downloads

    def _note_group(self, group: WeightsGroup, number: int) -> None:
        with self._lock:
            if number == self._num_downloads:
                self._busy_group = group
                return
        raise WeightsError("another download was begun")

    def _end(self, number: int, reusable: WeightsGroup | None = None) -> None:
        """Download `number` is over; the next one of its epoch may use its group again if there is one."""
        with self._lock:
            newest = number == self._num_downloads
            if newest:
                self._busy, self._busy_group = False, None
            if reusable is None:
                return
            if newest and not self._closed:
                self._idle_group = reusable
            else:
                reusable.close()

    def _join(self, update: UpdateWeights, timeout_s: float) -> WeightsGroup:
        try:
            where = msgspec.msgpack.decode(update.rendezvous.address, type=CollectiveRendezvous)
        except msgspec.DecodeError as error:
            raise WeightsError(
                f"the rendezvous of version {update.version} is none of a collective broadcast: {error}"
            ) from error
        return WeightsGroup.join(
            where.host,
            where.port,
            generation=update.generation,
            epoch=update.epoch,
            rank=update.member + 1,
            world_size=update.num_members + 1,
            device=self._device,
            timeout_s=timeout_s,
            digest=manifest_digest(update.manifest),
        )

    def close(self) -> None:
        with self._lock:
            group, self._idle_group, self._closed = self._idle_group, None, True
        if group is not None:
            group.close()


def largest_bucket(manifest: Manifest) -> int:
    """Bytes of the largest bucket."""
    return max((bucket.num_bytes for bucket in manifest.buckets), default=0)
