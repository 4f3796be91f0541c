"""NCCL as the weights plane calls it, between the threads of one process. Faults are attributes that a test sets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class _World:
    """The ranks that gave one unique id, and what rank 0 sent."""

    ranks: set[int] = field(default_factory=set)
    sent: list[torch.Tensor] = field(default_factory=list)


@dataclass
class _Communicator:
    world: _World
    size: int
    rank: int
    num_broadcasts: int = 0
    receives: torch.Tensor | None = None  # the tensor of the broadcast under way, unless it has arrived


class FakeNccl:
    """`nccl.Nccl`: a broadcast arrives once rank 0 has begun it."""

    version = 23_007

    def __init__(self) -> None:
        self.hang_connections = self.hang_broadcasts = self.hang_aborts = False
        self.raise_in_broadcast = self.raise_in_state = self.raise_in_event = self.raise_in_abort = False
        self.begun = threading.Event()  # a broadcast
        self.num_communicators = self.num_broadcasts = self.num_aborts = 0
        self._lock = threading.RLock()
        self._worlds: dict[bytes, _World] = {}
        self._communicators: dict[int, _Communicator] = {}
        self._released = threading.Event()
        self._local = threading.local()  # the communicator of the thread's last broadcast

    def release(self) -> None:
        """Let the aborts end that hang."""
        self._released.set()

    def unique_id(self) -> bytes:
        with self._lock:
            return len(self._worlds).to_bytes(8, "big") * 16

    def begin_communicator(self, world_size: int, unique_id: bytes, rank: int) -> int:
        with self._lock:
            world = self._worlds.setdefault(unique_id, _World())
            world.ranks.add(rank)
            self.num_communicators += 1
            handle = self.num_communicators
            self._communicators[handle] = _Communicator(world, world_size, rank)
            return handle

    def begin_broadcast(self, handle: int, flat: torch.Tensor) -> None:
        self._fail(self.raise_in_broadcast)
        with self._lock:
            self.num_broadcasts += 1
            communicator = self._communicators[handle]
            communicator.num_broadcasts += 1
            if communicator.rank == 0:
                communicator.world.sent.append(flat.clone())
            else:
                communicator.receives = flat
            self._local.communicator = communicator
        self.begun.set()

    def in_progress(self, handle: int) -> bool:
        self._fail(self.raise_in_state)
        with self._lock:
            communicator = self._communicators[handle]
            return self.hang_connections or len(communicator.world.ranks) < communicator.size

    def recorded_event(self) -> Callable[[], bool]:
        """`nccl.recorded_event`: whether the thread's last broadcast has arrived."""
        communicator: _Communicator = self._local.communicator

        def query() -> bool:
            self._fail(self.raise_in_event)
            with self._lock:
                sent = communicator.world.sent
                if self.hang_broadcasts or len(sent) < communicator.num_broadcasts:
                    return False
                if communicator.receives is not None:
                    communicator.receives.copy_(sent[communicator.num_broadcasts - 1])
                    communicator.receives = None
                return True

        return query

    def abort(self, handle: int) -> None:
        with self._lock:
            self.num_aborts += 1
            del self._communicators[handle]
        if self.hang_aborts:
            self._released.wait(60.0)
        self._fail(self.raise_in_abort)

    def _fail(self, fault: bool) -> None:
        if fault:
            raise RuntimeError("ncclBroadcast: unhandled cuda error")
