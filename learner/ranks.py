"""The learner's ranks: how one process under torchrun talks to the others. With one rank nothing is ever sent.

The default process group and those of the mesh carry FSDP's collectives; gloo groups on the CPU carry batches and numbers.
Every wait has a deadline. A rank that dies is noticed by torchrun at once; deadlines are for one that hangs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from ..common.errors import require
from .context import ContextGroup

# longest wait for another rank while a model is loaded, and perhaps downloaded
START_TIMEOUT_S = 1800.0
# longest wait for another rank afterwards, for a model whose bytes take no time; not for rank 0's wait for a batch
CONTROL_TIMEOUT_S = 120.0
# bytes a second of the slowest disk or link at which a rank is waited for
SLOWEST = 100e6
# bytes of a parameter that its rank writes into a checkpoint, and that rank 0 hands to the actors
SAVED_BYTES, PUBLISHED_BYTES = 16, 4


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
    # the ranks over which FSDP shards; of two dimensions if groups of ranks hold the model each (copies, shards)
    mesh: DeviceMesh | None = None
    # the ranks that share every micro-batch with this one, if there are several
    context: ContextGroup | None = None
    starve_s: float = 0.0

    @property
    def sharing(self) -> int:
        """How many ranks share every micro-batch. Neighbours do."""
        return 1 if self.context is None else self.context.size

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

    def sum_once(self, values: Tensor) -> Tensor:
        """Sum a tensor on any device over ranks, but only once for ranks that share micro-batches and so have equal ones."""
        return self.sum_(values if self.rank % self.sharing == 0 else torch.zeros_like(values))

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

    def allow_for(self, num_parameters: int) -> None:
        """Set all deadlines for a model of this size, once it is loaded: others wait while a rank saves or publishes it."""
        if self.size == 1:
            return
        timeout_s = work_timeout_s(num_parameters, self.size)
        groups = [dist.group.WORLD, self.control, *(self.mesh.get_all_groups() if self.mesh else [])]
        if self.context is not None:
            groups.append(self.context.group)
        for group in groups:
            _set_pg_timeout(timedelta(seconds=timeout_s), group)
        _set_pg_timeout(timedelta(seconds=self.starve_s + timeout_s), self.handover)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.control)


def work_timeout_s(num_parameters: int, ranks: int) -> float:
    """How long ranks wait for one that saves its share of the training state and publishes the whole model."""
    return CONTROL_TIMEOUT_S + num_parameters * (SAVED_BYTES / ranks + PUBLISHED_BYTES) / SLOWEST


def join_ranks(*, starve_s: float, cuda: bool, always: bool = False, shard_ranks: int = 0, context_parallel: int = 1) -> Ranks:
    """Read torchrun's environment and build the groups. Without that environment this is the only rank.

    `always`: a single rank gets a default process group too (FSDP needs one). starve_s: longest wait for a batch.
    shard_ranks: ranks that share one copy of the model; 0: those of one machine. context_parallel: ranks that share each
    micro-batch. Raises: ConfigError.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    fits = size % context_parallel == 0
    require(fits, "learner.context_parallel", context_parallel, f"a divisor of the number of ranks, {size}")
    fits = shard_ranks == 0 or size % shard_ranks == 0
    require(fits, "learner.shard_ranks", shard_ranks, f"a divisor of the number of ranks, {size}")
    if size == 1 and not always:
        return Ranks(local_rank=local_rank)
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=_store(size, local_rank),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=START_TIMEOUT_S),
    )
    device = "cuda" if cuda else "cpu"
    if size == 1:
        return Ranks(local_rank=local_rank, mesh=rank_mesh(1, 1, device))
    return Ranks(
        rank=rank,
        size=size,
        local_rank=local_rank,
        handover=_gloo_group(starve_s + START_TIMEOUT_S),
        control=_gloo_group(START_TIMEOUT_S),
        mesh=rank_mesh(size, shard_ranks or int(os.environ.get("LOCAL_WORLD_SIZE", size)), device),
        context=_context(rank, size, context_parallel) if context_parallel > 1 else None,
        starve_s=starve_s,
    )


def _store(size: int, local_rank: int) -> dist.Store | None:  # pyright: ignore[reportPrivateImportUsage]
    """Where ranks find each other; None: where torchrun says. On several nodes it is another one for each start of the ranks.

    torchrun's own outlives them: ranks that start again would read the addresses of those that ended. c10d's first rank keeps
    ours, at the address that torchrun chose for this start; it is none of our rank 0's where c10d numbers the nodes otherwise.
    """
    if size == 1:
        return dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "False":
        return None
    first = int(os.environ["GROUP_RANK"]) == 0 and local_rank == 0
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        address, port, size, is_master=first, timeout=timedelta(seconds=START_TIMEOUT_S)
    )


def _context(rank: int, size: int, sharing: int) -> ContextGroup:
    """Arrange the ranks in groups of `sharing` neighbours that share micro-batches. Collective."""
    timeout = timedelta(seconds=START_TIMEOUT_S)
    groups = [dist.new_group(list(range(i, i + sharing)), timeout=timeout) for i in range(0, size, sharing)]
    own = groups[rank // sharing]
    assert isinstance(own, dist.ProcessGroup), "this rank is a member"
    return ContextGroup(rank % sharing, sharing, own)


def rank_mesh(size: int, sharing: int, device: str) -> DeviceMesh:
    """Arrange the ranks in groups of `sharing` neighbours. Collective."""
    if sharing == size:
        return init_device_mesh(device, (size,), mesh_dim_names=("shards",))
    return init_device_mesh(device, (size // sharing, sharing), mesh_dim_names=("copies", "shards"))


def _gloo_group(timeout_s: float) -> dist.ProcessGroup:
    """Build a group of all ranks on the CPU. Collective."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group


def leave_ranks() -> None:
    """Destroy the groups. May be called twice, and without any."""
    if dist.is_initialized():
        dist.destroy_process_group()
