"""Copies the policy's tensors into the flat buckets of an update: the only part of a publish on the learner's critical path.

The buckets lie in host memory, page-locked where the policy is on a GPU, which so keeps no second copy of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from ...common.types import Manifest
from ...common.weights.buckets import PackedWeights, TensorShape, fill_bucket, plan_buckets
from ...common.weights.gpu_memory import finish_stream, host_buffer

CPU = torch.device("cpu")


class WeightPacker:
    """Packs one version after the other into memory that `recycle` gave back. Any thread may call it.

    Example:
        packer = WeightPacker([("embed", torch.float32, (8, 4)), ("head", torch.float32, (4, 8))], bucket_bytes=1 << 20)
        weights = packer.pack(7, model.named_parameters())
        packer.recycle(weights)  # once no one reads it
    """

    def __init__(self, specs: Iterable[TensorShape], bucket_bytes: int, device: torch.device = CPU) -> None:
        """`specs` name all tensors, in the order in which `pack` gets them; they are on `device`."""
        self.manifest: Manifest = plan_buckets(specs, bucket_bytes)
        self._device = device
        self._free: SimpleQueue[list[Tensor]] = SimpleQueue()

    def pack(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> PackedWeights:
        """Copy the tensors, bucket by bucket, so that no more of them than one bucket's need to exist at once.

        Raises WeightsError if a tensor is missing, or has another name, shape or dtype than `specs` said.
        """
        try:
            buckets = self._free.get_nowait()
        except Empty:
            buckets = [host_buffer(bucket.num_bytes, self._device).zero_() for bucket in self.manifest.buckets]
        remaining = iter(tensors)
        for bucket, out in zip(self.manifest.buckets, buckets, strict=True):
            fill_bucket(bucket, dict(islice(remaining, len(bucket.tensors))), out, wait=False)
        finish_stream(self._device)
        return PackedWeights(version=version, manifest=self.manifest, buckets=buckets, device=self._device)

    def recycle(self, weights: PackedWeights) -> None:
        """Let a later `pack` overwrite these buckets."""
        self._free.put(weights.buckets)
