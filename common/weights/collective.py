"""The process group that carries a collective weight broadcast.

A fresh group per membership epoch over the learner's TCPStore; torch's default group is never touched. gloo on CPU, NCCL on
GPUs. A returned broadcast proves nothing (a dead leaf may go unnoticed): acknowledgements with checksums do.

A group breaks for all of its members soon after it broke for one: that one says so in the store, rank 0 looks there before
every bucket, and leaves; a member whose peer left gets an error at once. Nobody waits in a phase for longer than its deadline.
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

_BROKEN = "broken"  # key of the store: who left the group in the middle


class WeightsStore:
    """The learner's TCPStore, where the groups of all epochs meet. Listens on `host` only."""

    def __init__(self, host: str, port: int = 0, *, timeout_s: float) -> None:
        try:
            listener = socket.create_server((host, port), backlog=128)
        except OSError as error:
            raise WeightsError(
                f"weights.host = {host}: cannot listen there ({error}); name an address of this machine"
            ) from error
        self.host, self.port = host, int(listener.getsockname()[1])
        descriptor = listener.detach()  # the store's from here on
        timeout = timedelta(seconds=timeout_s)
        self._store = dist.TCPStore(
            host, self.port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=descriptor
        )

    def close(self) -> None:
        """Stop listening. Groups that were joined go on working."""
        self._store = None


class WeightsGroup:
    """The process group of one membership epoch: rank 0 is the learner. Build it with `join`."""

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
        """Meet the other ranks of this epoch; blocks until all are there, for `timeout_s` at most.

        Raises WeightsError when somebody did not come in time or with another `digest`, or the store is out of reach.
        """
        timeout = timedelta(seconds=timeout_s)
        try:
            with socket.create_connection((store_host, store_port), timeout=timeout_s) as probe:
                address = probe.getsockname()[0]  # of the interface that leads to the store
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
        """Send (rank 0) or receive `flat`; blocks until done here, for `timeout_s` at most (default: that of `join`).

        Raises WeightsError on a lost peer or at the deadline.

        The group is of no use after an error: `fail` or close it.
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
        with suppress(RuntimeError):  # the store may be what was lost
            self._store.set(_BROKEN, f"rank {self._rank}")
        self.close()

    def close(self) -> None:
        """Leave the group; peers that still wait in it get an error."""
        if self._group.name() == "nccl":
            self._group.abort()
        del self._group, self._store


def _meet(store: dist.Store, rank: int, world_size: int, timeout: timedelta, digest: str) -> None:
    """Return once every rank is here with the same digest ("": not known), and rank 0 still is.

    gloo has no deadline while it connects to a peer that came, gave up and went: a late rank would hang for ever.
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
    if digest and (odd := [other for other in others if store.get(other).decode() not in ("", digest)]):
        store.set("go", f"{odd} have other buckets than rank 0")
        raise RuntimeError(f"{odd} have other buckets: expected {digest}")
    store.set("go", "")


def _gloo_group(store: dist.Store, rank: int, world_size: int, timeout: timedelta, address: str) -> dist.ProcessGroup:
    """Bound to the interface of `address`: gloo's own choice follows the host name, which may lead nowhere."""
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
