"""Memory of the host for the copies that a checkpoint is written from.

A GPU copies into pinned pages at the speed of its link, and about ten times slower into others. Pinning takes longer than the
copy, so pages stay pinned from one checkpoint to the next; without a GPU nothing is kept.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class HostMemory:
    """Copies of tensors by name. A copy is valid until the next one of that name."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._pins = True

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """Begin to copy `tensor`; the copy is complete when `wait` returns, and `tensor` may change then."""
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True).contiguous()
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._kept[name] = self._pinned(tensor)
        kept.copy_(tensor, non_blocking=True)
        return kept

    def wait(self) -> None:
        """Wait until all copies are complete."""
        if self._kept:
            torch.cuda.current_stream().synchronize()

    def _pinned(self, like: Tensor) -> Tensor:
        """Memory for a tensor, pinned if the system allows it."""
        memory = torch.empty(like.shape, dtype=like.dtype, device="cpu")
        runtime = torch.cuda.cudart()
        if self._pins and memory.nbytes and runtime is not None:
            # torch's own allocator of pinned memory takes twice as much for sizes just above a power of two
            code = int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
            self._pins = code == 0
            if code:
                log.warning("memory for checkpoints cannot be pinned (CUDA error %d): copies into it are slower", code)
        return memory
