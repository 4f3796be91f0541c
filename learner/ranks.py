"""The learner's ranks: how one process under torchrun talks to the others. With one rank nothing is ever sent.

The default process group carries FSDP's collectives; gloo groups on the CPU carry batches and numbers. Every wait has a
deadline.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

# longest wait for another rank, except for rank 0's wait for a batch
CONTROL_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Ranks:
    """Rank `rank` of `size`, with its process groups."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    # gloo group whose timeout covers rank 0's wait for a batch
    handover: dist.ProcessGroup | None = None
    # gloo group for everything else
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that talks to the buffer."""
        return self.rank == 0

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        """Return rank 0's payload on every rank; the others pass None. Raises: RuntimeError when rank 0 is gone or late."""
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
        """Sum a tensor on any device over ranks, in place."""
        if self.size > 1:
            host = values.cpu()
            dist.all_reduce(host, group=self.control)
            values.copy_(host)
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the same-shaped CPU tensors of all ranks, on every rank."""
        if self.size == 1:
            return [values]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values, group=self.control)
        return parts

    def gather_ragged(self, values: Tensor) -> list[Tensor]:
        """Return the CPU tensors of all ranks, on every rank; they may differ in the size of their last dimension."""
        sizes = [int(size) for size in self.gather(torch.tensor(values.shape[-1]))]
        padded = torch.nn.functional.pad(values, (0, max(sizes) - values.shape[-1]))
        return [part[..., :size] for part, size in zip(self.gather(padded), sizes, strict=True)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)


def join_ranks(*, starve_s: float, cuda: bool, always: bool = False) -> Ranks:
    """Read torchrun's environment and build the groups. Without that environment this is the only rank.

    `always`: a single rank gets a default process group too (FSDP needs one). starve_s: longest wait for a batch.
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
    handover, control = _gloo_group(starve_s + CONTROL_TIMEOUT_S), _gloo_group(CONTROL_TIMEOUT_S)
    return Ranks(rank=rank, size=size, local_rank=local_rank, handover=handover, control=control)


def _gloo_group(timeout_s: float) -> dist.ProcessGroup:
    """Build a group of all ranks on the CPU. Collective."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group


def leave_ranks() -> None:
    """Destroy the groups. May be called twice, and without any."""
    if dist.is_initialized():
        dist.destroy_process_group()
