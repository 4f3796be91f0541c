"""The process group that carries a collective weight broadcast, and the TCPStore where its ranks meet.

Every epoch of members gets a new group, gloo on CPUs and NCCL on GPUs; torch's default group is never touched. A broadcast that
returned proves nothing, because a dead leaf of the tree may go unnoticed: acknowledgements with checksums do.

A group that broke for one rank breaks for all of them soon: that rank says so in the store, rank 0 looks there before every
bucket and leaves, and a rank whose peer left gets an error at once. No rank waits longer than the deadline of a phase.
"""
# pyright: reportPrivateImportUsage=false
# torch.distributed exports its stores and groups without naming them in __all__.

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import WeightsError

_BROKEN = "broken"  # key of the store: the rank that left in the middle of a broadcast


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
    """The process group of one epoch: rank 0 is the learner, the others are actors. Build it with `join`."""

    def __init__(self, group: dist.ProcessGroup, store: dist.Store, rank: int, timeout_s: float) -> None:
        self._group, self._store, self._rank, self._timeout_s = group, store, rank, timeout_s

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
    ) -> WeightsGroup:
        """Meet the other ranks of this epoch. Blocks until all are there, `timeout_s` at most.

        `digest`: of the manifest. Ranks must agree, because gloo ends a process that expects fewer bytes than it gets; ""
        agrees with every other one.
        Raises WeightsError when a rank did not come in time or has another `digest`, or the store is out of reach.
        """
        timeout = timedelta(seconds=timeout_s)
        try:
            with socket.create_connection((store_host, store_port), timeout=timeout_s) as probe:
                address = probe.getsockname()[0]  # the interface that leads to the store
            client = dist.TCPStore(store_host, store_port, is_master=False, wait_for_workers=False, timeout=timeout)
            store = dist.PrefixStore(f"weights/{generation}/{epoch}", client)
            _meet(store, rank, world_size, timeout, digest)
            if device.type == "cuda":
                group = _nccl_group(store, rank, world_size, timeout)
            else:
                group = _gloo_group(store, rank, world_size, timeout, address)
        except (RuntimeError, OSError) as error:  # torch.distributed's errors derive from RuntimeError
            raise WeightsError(
                f"weights group {generation}/{epoch}: rank {rank} of {world_size} did not meet the others "
                f"at {store_host}:{store_port} within {timeout_s:g} s ({_first_line(error)})"
            ) from error
        return cls(group, store, rank, timeout_s)

    def broadcast(self, flat: torch.Tensor, timeout_s: float | None = None) -> None:
        """Send `flat` (rank 0) or receive into it. Blocks until this rank is done, `timeout_s` at most (else as in `join`).

        Raises WeightsError when a peer is lost, and at the deadline. The group is of no use then: `fail` or `close` it.
        """
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=self._timeout_s if timeout_s is None else timeout_s)
        try:
            if self._rank == 0 and self._store.check([_BROKEN]):
                raise RuntimeError(f"{self._store.get(_BROKEN).decode()} gave up")
            self._group.broadcast([flat], options).wait(options.timeout)
        except RuntimeError as error:
            raise WeightsError(f"weight broadcast of {flat.numel()} bytes failed ({_first_line(error)})") from error

    def fail(self) -> None:
        """Leave after an error; rank 0 hears of it before its next bucket."""
        with suppress(RuntimeError):  # the error may be that the store is lost
            self._store.set(_BROKEN, f"rank {self._rank}")
        self.close()

    def close(self) -> None:
        """Leave the group. Peers that still wait in it get an error."""
        if self._group.name() == "nccl":
            self._group.abort()
        del self._group, self._store


def _meet(store: dist.Store, rank: int, world_size: int, timeout: timedelta, digest: str) -> None:
    """Return once every rank is here with the same digest, and rank 0 has said so.

    Without this a late rank would hang for ever: gloo has no deadline while it connects to a peer that came and left again.
    """
    if rank:
        store.set(f"here/{rank}", digest)
        store.wait(["go"], timeout)
        if refusal := store.get("go").decode():
            raise RuntimeError(refusal)
        return
    others = [f"here/{other}" for other in range(1, world_size)]
    try:
        store.wait(others, timeout)
    except RuntimeError:
        store.set("go", "rank 0 gave up waiting for the others")
        raise
    different = [other for other in others if digest and store.get(other).decode() not in ("", digest)]
    if different:
        store.set("go", f"{different} have other buckets than rank 0")
        raise RuntimeError(f"{different} have other buckets: expected {digest}")
    store.set("go", "")


def _gloo_group(store: dist.Store, rank: int, world_size: int, timeout: timedelta, address: str) -> dist.ProcessGroup:
    """A group that listens on the interface of `address`. gloo's default follows the host name, which may lead nowhere."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timeout
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]  # type: ignore[attr-defined]
    return dist.ProcessGroupGloo(store, rank, world_size, options)  # type: ignore[attr-defined, call-arg]


def _nccl_group(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> dist.ProcessGroup:
    options = dist.ProcessGroupNCCL.Options()  # type: ignore[attr-defined]
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, world_size, options)  # type: ignore[attr-defined]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
