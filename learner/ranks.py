"""The learner's ranks: what one process must know of the others under torchrun. With one rank nothing is ever sent.

Two groups: the default one carries FSDP's collectives, a gloo one on the CPU carries batches and numbers. Every wait has a
deadline.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

CONTROL_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Ranks:
    """Rank `rank` of `size`; `handover`: gloo group whose deadline covers the wait for a batch; `control`: for all else."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    handover: Any = None
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that talks to the buffer."""
        return self.rank == 0

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Rank 0's payload, on every rank; the others pass None. Raises RuntimeError when rank 0 is gone or late."""
        if self.size == 1:
            assert payload is not None
            return payload
        length = torch.tensor([len(payload) if payload is not None else 0])
        dist.broadcast(length, src=0, group=self.handover)
        content = torch.empty(int(length), dtype=torch.uint8)
        if payload:
            content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        dist.broadcast(content, src=0, group=self.control)
        return content.numpy().tobytes()

    def sum_(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place, of a tensor on any device."""
        if self.size > 1:
            host = values.cpu()
            dist.all_reduce(host, group=self.control)
            values.copy_(host)
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """The same-shaped CPU tensors of all ranks, on every rank."""
        if self.size == 1:
            return [values]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.control)
        return parts

    def gather_ragged(self, values: Tensor) -> list[Tensor]:
        """The CPU tensors of all ranks, on every rank; they may differ in the size of their last dimension."""
        sizes = [int(size) for size in self.gather(torch.tensor(values.shape[-1]))]
        padded = torch.nn.functional.pad(values, (0, max(sizes) - values.shape[-1]))
        return [part[..., :size] for part, size in zip(self.gather(padded), sizes, strict=True)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)


def join_ranks(*, starve_s: float, cuda: bool, always: bool = False) -> Ranks:
    """Read torchrun's environment and build the groups; without that environment this is the only rank.

    `always`: also a single rank gets a default process group (FSDP needs one). starve_s: longest wait for a batch.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if size == 1 and not always:
        return Ranks(local_rank=local_rank)
    if cuda:
        torch.cuda.set_device(local_rank)
    store = dist.HashStore() if size == 1 else None  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=CONTROL_TIMEOUT_S),
    )
    if size == 1:
        return Ranks(local_rank=local_rank)
    handover = dist.new_group(backend="gloo", timeout=timedelta(seconds=starve_s + CONTROL_TIMEOUT_S))
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=CONTROL_TIMEOUT_S))
    return Ranks(rank=rank, size=size, local_rank=local_rank, handover=handover, control=control)


def leave_ranks() -> None:
    """Give the groups back; safe to call twice and without any."""
    if dist.is_initialized():
        dist.destroy_process_group()
