"""Weights that this machine holds already: an actor's main process pulled them into shared memory, and its engine maps it.

    actor/pulling.py: SharedBuckets --unseal, write, seal--> memory <--mapped, not copied-- SharedActorEnd.download --> engine

The memory is a memfd: it has no name in any file system, so a process that is killed leaves nothing behind, and the size of
/dev/shm, 64 MB in many containers, does not limit it. A process of the same user opens it as /proc/PID/fd/N. The header tells
whether that is still the memory which the address means: it starts with a random id, and counts how often the content changed.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Generator
from typing import Annotated

import msgspec
import psutil
import torch

from ..errors import WeightsError
from ..messages import UpdateWeights
from ..types import Manifest, Number, Rendezvous

NAME = "shared"
_ID = 16  # bytes at the beginning of the header
_HEADER = mmap.PAGESIZE


class SharedAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Rendezvous.address` of the transport `shared`, as MessagePack."""

    pid: Number
    descriptor: Number
    id: Annotated[bytes, msgspec.Meta(min_length=_ID, max_length=_ID)]
    seal: Number  # the state of the content: an even number


class SharedBuckets:
    """The buckets of a manifest in memory that other processes of this machine can map. One thread writes them.

    Example:
        shared = SharedBuckets.allocate(manifest)
        shared.unseal()
        shared.buckets[0].copy_(flat)
        update = msgspec.structs.replace(update, rendezvous=shared.seal())
        await engine.apply_weights(update, timeout_s=60.0)  # afterwards the buckets may be written again
        shared.close()
    """

    def __init__(self, descriptor: int, memory: mmap.mmap, manifest: Manifest) -> None:
        """`descriptor` is closed by `close`; `memory` is its mapping. See `allocate`."""
        self._descriptor, self._id = descriptor, secrets.token_bytes(_ID)
        flat = torch.frombuffer(memory, dtype=torch.uint8)
        flat[:_ID] = torch.frombuffer(bytearray(self._id), dtype=torch.uint8)
        self._state = flat[_ID : _ID + 8].view(torch.int64)
        self.buckets = _buckets(flat, manifest)  # each [num_bytes] uint8

    @classmethod
    def allocate(cls, manifest: Manifest) -> SharedBuckets:
        """Buckets of zeros, sealed. Raises WeightsError where the machine has no room for them."""
        num_bytes, free = shared_bytes(manifest), psutil.virtual_memory().available
        instead = "give this process more memory, or let it take part in the broadcast with weights.transport=collective"
        # the kernel would grant it, and end some process once it is written to
        if num_bytes > free:
            raise WeightsError(
                f"pulled weights take {num_bytes / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are free: {instead}"
            )
        descriptor = -1
        try:
            descriptor = os.memfd_create("prolong-weights", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, num_bytes)
            return cls(descriptor, mmap.mmap(descriptor, num_bytes), manifest)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise WeightsError(
                f"no shared memory of {num_bytes / 1e9:.2f} GB for pulled weights ({error}): {instead}"
            ) from error

    def unseal(self) -> None:
        """The content is about to change: engines refuse it until the next `seal`."""
        if not self._state.item() % 2:
            self._state += 1

    def seal(self) -> Rendezvous:
        """The content stays as it is until the next `unseal`; returns where an engine finds it."""
        if self._state.item() % 2:
            self._state += 1
        address = SharedAddress(pid=os.getpid(), descriptor=self._descriptor, id=self._id, seal=int(self._state.item()))
        return Rendezvous(transport=NAME, address=msgspec.msgpack.encode(address))

    def close(self) -> None:
        """Engines cannot map it any more. The memory is free once no tensor is left that looks into it. Called once."""
        os.close(self._descriptor)


class SharedTransport:
    """What `UpdateWeights` to an engine names after a pull. No learner sends with it."""

    def open_actor_end(self, device: torch.device) -> SharedActorEnd:
        return SharedActorEnd()


class SharedActorEnd:
    """Yields the mapped memory itself. Contract: `api.ActorEnd`; its caller reads the buckets until the update was loaded."""

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        """Never blocks. Raises WeightsError when the content is not that of the address, or changed while it was read."""
        address = _decode(update)
        flat = _mapped(address, update)
        state = flat[_ID : _ID + 8].view(torch.int64)
        _check_sealed(state, address, update.version)
        yield from _buckets(flat, update.manifest)
        _check_sealed(state, address, update.version)

    def close(self) -> None:
        """There is nothing to leave."""


def shared_bytes(manifest: Manifest) -> int:
    """Bytes of the memory for these buckets."""
    return _HEADER + sum(_paged(bucket.num_bytes) for bucket in manifest.buckets)


def _paged(num_bytes: int) -> int:
    """`num_bytes`, and the rest of the last page."""
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _buckets(flat: torch.Tensor, manifest: Manifest) -> list[torch.Tensor]:
    """The buckets in the whole memory: each begins at a page."""
    buckets, offset = [], _HEADER
    for bucket in manifest.buckets:
        buckets.append(flat[offset : offset + bucket.num_bytes])
        offset += _paged(bucket.num_bytes)
    return buckets


def _decode(update: UpdateWeights) -> SharedAddress:
    try:
        return msgspec.msgpack.decode(update.rendezvous.address, type=SharedAddress)
    except msgspec.DecodeError as error:
        raise WeightsError(f"the rendezvous of version {update.version} is no shared memory: {error}") from error


def _mapped(address: SharedAddress, update: UpdateWeights) -> torch.Tensor:
    """The whole memory, [n] uint8. It stays mapped as long as a tensor looks into it."""
    path = f"/proc/{address.pid}/fd/{address.descriptor}"
    num_bytes = shared_bytes(update.manifest)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise WeightsError(
            f"version {update.version}: the shared memory of process {address.pid} cannot be opened ({error})"
        ) from error
    try:
        size = os.fstat(descriptor).st_size
        if size != num_bytes:
            raise WeightsError(f"version {update.version}: {path} has {size} bytes, its manifest says {num_bytes}")
        # private: what an engine writes into a bucket by mistake does not reach the process that pulls
        memory = mmap.mmap(descriptor, num_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise WeightsError(f"version {update.version}: {path} cannot be mapped: {error}") from error
    finally:
        os.close(descriptor)
    if memory[:_ID] != address.id:
        raise WeightsError(f"version {update.version}: {path} is the memory of something else: its process ended meanwhile")
    return torch.frombuffer(memory, dtype=torch.uint8)


def _check_sealed(state: torch.Tensor, address: SharedAddress, version: int) -> None:
    if int(state.item()) != address.seal:
        raise WeightsError(f"version {version}: the shared memory was overwritten by a newer version")
