"""The group that carries a collective weight broadcast, and the TCPStore where its ranks meet.

Every epoch of members gets a new group. When its ranks meet, each says on which GPU it computes; rank 0 then chooses for all:
NCCL from GPU to GPU, or gloo through the hosts' memory where a rank has no GPU or shares one with another, which NCCL refuses.
torch's default group is never touched. A broadcast that returned proves nothing, because a dead leaf of the tree may go
unnoticed: acknowledgements with checksums do.

A group that broke for one rank breaks for all of them soon: that rank says so in the store, rank 0 looks there before every
bucket, with NCCL also while it waits, and leaves. With gloo a rank whose peer left gets an error at once; with NCCL it waits
until the next epoch begins. No rank waits longer than the deadline of a phase.
"""
# pyright: reportPrivateImportUsage=false
# torch.distributed exports its stores and groups without naming them in __all__.

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from functools import partial
from time import monotonic
from typing import Protocol

import msgspec
import torch
import torch.distributed as dist

from ..errors import WeightsError
from . import nccl

_BROKEN = "broken"  # key of the store: the rank that left in the middle of a broadcast
_UNIQUE_ID = "nccl"  # key of the store: what rank 0 drew for NCCL
CPU = torch.device("cpu")


class Medium(Enum):
    """What a group's bytes travel through."""

    host = "host"  # gloo, from the memory of one host to that of another
    nccl = "nccl"  # from GPU to GPU


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A rank says in the store that it is there."""

    digest: str  # of its manifest
    gpu: str = ""  # identity of the GPU that it computes on; empty: none that NCCL could use
    nccl: int = 0  # version of its NCCL


class Go(msgspec.Struct, frozen=True, kw_only=True):
    """Rank 0's answer to all that are there."""

    medium: Medium = Medium.host
    refusal: str = ""


class Channel(Protocol):
    """Carries broadcasts from rank 0 to the other ranks. `WeightsGroup` makes one per group."""

    device: torch.device  # where the tensors must lie

    def broadcast(self, flat: torch.Tensor, timeout_s: float) -> None:
        """Blocks until this rank is done, `timeout_s` at most. Raises RuntimeError; the channel is of no use then."""
        ...

    def abort(self) -> None:
        """Leave. May be called from another thread while a broadcast goes on. Never raises."""
        ...


class WeightsStore:
    """The learner's TCPStore, where the groups of all epochs meet. Open one with `listen`."""

    def __init__(self, host: str, port: int, store: dist.Store) -> None:
        self.host, self.port = host, port
        self._store: dist.Store | None = store

    @classmethod
    def listen(cls, host: str, port: int = 0, *, timeout_s: float) -> WeightsStore:
        """Listen on `host` only, at a free port if `port` is 0. Raises WeightsError if `host` is not of this machine."""
        try:
            listener = socket.create_server((host, port), backlog=128)
        except OSError as error:
            raise WeightsError(
                f"weights.host = {host}: cannot listen there ({error}); name an address of this machine"
            ) from error
        port = int(listener.getsockname()[1])
        store = dist.TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listener.detach(),  # the store closes it
        )
        return cls(host, port, store)

    def close(self) -> None:
        """Stop listening. Groups that were joined before go on working."""
        self._store = None


class WeightsGroup:
    """The ranks of one epoch: rank 0 is the learner, the others are actors. Build it with `join`."""

    def __init__(self, channel: Channel, store: dist.Store, rank: int, timeout_s: float, medium: Medium) -> None:
        self._channel, self._store, self._rank, self._timeout_s = channel, store, rank, timeout_s
        self.medium = medium
        self.device = channel.device  # where tensors lie that are broadcast

    @classmethod
    def join(
        cls,
        store_host: str,
        store_port: int,
        *,
        generation: int,
        epoch: int,
        rank: int,
        world_size: int,
        device: torch.device,
        timeout_s: float,
        digest: str = "",
        through_host: bool = False,
    ) -> WeightsGroup:
        """Meet the other ranks of this epoch. Blocks until all are there, `timeout_s` at most.

        `digest`: of the manifest. Ranks must agree, because gloo ends a process that expects fewer bytes than it gets; ""
        agrees with every other one. `through_host`: this rank asks for `Medium.host`.
        Raises WeightsError when a rank did not come in time or has another `digest`, or the store is out of reach.
        """
        deadline_s = monotonic() + timeout_s
        timeout = timedelta(seconds=timeout_s)
        try:
            here = Presence(digest=digest) if through_host else presence_on(device, digest)
            with socket.create_connection((store_host, store_port), timeout=timeout_s) as probe:
                address = probe.getsockname()[0]  # the interface that leads to the store
            client = dist.TCPStore(store_host, store_port, is_master=False, wait_for_workers=False, timeout=timeout)
            store = dist.PrefixStore(f"weights/{generation}/{epoch}", client)
            medium = _meet(store, rank, world_size, timeout, here)
            channel: Channel
            if medium is Medium.nccl:
                channel = _nccl_channel(store, rank, world_size, device, deadline_s)
            else:
                channel = GlooChannel(store, rank, world_size, timeout, address)
        except (RuntimeError, OSError, msgspec.DecodeError) as error:  # torch.distributed's errors derive from RuntimeError
            raise WeightsError(
                f"weights group {generation}/{epoch}: rank {rank} of {world_size} did not meet the others "
                f"at {store_host}:{store_port} within {timeout_s:g} s ({_first_line(error)})"
            ) from error
        return cls(channel, store, rank, timeout_s, medium)

    def broadcast(self, flat: torch.Tensor, timeout_s: float | None = None) -> None:
        """Send `flat` (rank 0) or receive into it. Blocks until this rank is done, `timeout_s` at most (else as in `join`).

        Raises WeightsError when a peer is lost, and at the deadline. The group is of no use then: `fail` or `close` it.
        """
        try:
            if self._rank == 0:
                _raise_if_broken(self._store)
            self._channel.broadcast(flat, self._timeout_s if timeout_s is None else timeout_s)
        except RuntimeError as error:
            raise WeightsError(f"weight broadcast of {flat.numel()} bytes failed ({_first_line(error)})") from error

    def fail(self) -> None:
        """Leave after an error; rank 0 hears of it before its next bucket."""
        with suppress(RuntimeError):  # the error may be that the store is lost
            self._store.set(_BROKEN, f"rank {self._rank}")
        self.close()

    def close(self) -> None:
        """Leave the group. Peers that still wait in it get an error. Never raises, and may come twice.

        From another thread, while a broadcast goes on: with NCCL that broadcast is an error at once.
        """
        self._channel.abort()


class GlooChannel:
    """Carries broadcasts from the memory of one host to that of another, over TCP."""

    device = CPU

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout: timedelta, address: str) -> None:
        """Listens on the interface of `address`. gloo's default follows the host name, which may lead nowhere."""
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]  # type: ignore[attr-defined]
        self._group: dist.ProcessGroup | None = dist.ProcessGroupGloo(store, rank, world_size, options)  # type: ignore

    def broadcast(self, flat: torch.Tensor, timeout_s: float) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=timeout_s)
        group = self._group
        if group is None:
            raise RuntimeError("the group was left")
        group.broadcast([flat], options).wait(options.timeout)

    def abort(self) -> None:
        """The group's end closes its connections, once no broadcast uses it any more."""
        self._group = None


def _raise_if_broken(store: dist.Store) -> None:
    """For rank 0 alone: the store is in its process, so that no answer is waited for. Raises RuntimeError."""
    if store.check([_BROKEN]):
        raise RuntimeError(f"{store.get(_BROKEN).decode()} gave up")


def presence_on(device: torch.device, digest: str) -> Presence:
    """What a rank that computes on `device` says of itself."""
    library = nccl.nccl_library() if device.type == "cuda" else None
    if library is None:
        return Presence(digest=digest)
    return Presence(digest=digest, gpu=str(torch.cuda.get_device_properties(device).uuid), nccl=library.version)


def medium_for(ranks: list[Presence]) -> Medium:
    """NCCL if every rank has a GPU of its own and the same NCCL: it refuses two ranks on one GPU."""
    gpus = {rank.gpu for rank in ranks}
    each_its_own = len(gpus) == len(ranks) and "" not in gpus
    return Medium.nccl if each_its_own and len({rank.nccl for rank in ranks}) == 1 else Medium.host


def _meet(store: dist.Store, rank: int, world_size: int, timeout: timedelta, here: Presence) -> Medium:
    """Return once every rank is here with the same digest, and rank 0 has said so, and through what the bytes travel.

    Without this a late rank would hang for ever: gloo has no deadline while it connects to a peer that came and left again.
    """
    if rank:
        store.set(f"here/{rank}", msgspec.json.encode(here).decode())
        store.wait(["go"], timeout)
        go = msgspec.json.decode(store.get("go"), type=Go)
        if go.refusal:
            raise RuntimeError(go.refusal)
        return go.medium
    others = [f"here/{other}" for other in range(1, world_size)]
    try:
        store.wait(others, timeout)
    except RuntimeError:
        _answer(store, Go(refusal="rank 0 gave up waiting for the others"))
        raise
    try:
        present = [msgspec.json.decode(store.get(other), type=Presence) for other in others]
        different = [
            other for other, rank in zip(others, present, strict=True) if here.digest and rank.digest not in ("", here.digest)
        ]
        if different:
            raise RuntimeError(f"{different} have other buckets than rank 0, expected {here.digest}")
    except (RuntimeError, msgspec.DecodeError) as error:
        _answer(store, Go(refusal=str(error)))
        raise
    medium = medium_for([here, *present])
    _answer(store, Go(medium=medium))
    return medium


def _answer(store: dist.Store, go: Go) -> None:
    store.set("go", msgspec.json.encode(go).decode())


def _nccl_channel(store: dist.Store, rank: int, world_size: int, device: torch.device, deadline_s: float) -> Channel:
    library = nccl.nccl_library()
    assert library is not None, "rank 0 chooses NCCL only if every rank has it"
    if rank == 0:
        store.set(_UNIQUE_ID, library.unique_id().hex())
    store.wait([_UNIQUE_ID], timedelta(seconds=max(deadline_s - monotonic(), 0.001)))
    channel = nccl.NcclChannel(library, device, *([partial(_raise_if_broken, store)] if rank == 0 else []))
    try:
        channel.connect(bytes.fromhex(store.get(_UNIQUE_ID).decode()), rank, world_size, max(deadline_s - monotonic(), 0.0))
    except BaseException:
        channel.abort()
        raise
    return channel


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
