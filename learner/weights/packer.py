"""Copies the policy's tensors into the flat buckets of an update: the only part of a publish on the learner's critical path.

The buckets lie in host memory, page-locked where the policy is on a GPU, which so keeps no second copy of the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from ...common.types import Manifest
from ...common.weights.buckets import PackedWeights, TensorShape, fill_bucket, plan_buckets
from ...common.weights.gpu_memory import finish_stream, host_buffer

CPU = torch.device("cpu")


class WeightPacker:
    """Packs one version after the other into memory that nobody reads any more. Any thread may call it.

    Example:
        packer = WeightPacker([("embed", torch.float32, (8, 4)), ("head", torch.float32, (4, 8))], bucket_bytes=1 << 20)
        weights = packer.pack(7, model.named_parameters())  # held once, by the caller
        packer.hold(weights)  # by one more reader
        packer.release(weights)  # by each of them, once it has read them
    """

    def __init__(self, specs: Iterable[TensorShape], bucket_bytes: int, device: torch.device = CPU) -> None:
        """`specs` name all tensors, in the order in which `pack` gets them; they are on `device`."""
        self.manifest: Manifest = plan_buckets(specs, bucket_bytes)
        self.device = device
        self._lock = threading.Lock()
        self._free: list[list[Tensor]] = []

    def pack(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> PackedWeights:
        """Copy the tensors, bucket by bucket, so that no more of them than one bucket's need to exist at once.

        Raises WeightsError if a tensor is missing, or has another name, shape or dtype than `specs` said.
        """
        with self._lock:
            buckets = self._free.pop() if self._free else None
        if buckets is None:
            buckets = [host_buffer(bucket.num_bytes, self.device).zero_() for bucket in self.manifest.buckets]
        remaining = iter(tensors)
        for bucket, out in zip(self.manifest.buckets, buckets, strict=True):
            fill_bucket(bucket, dict(islice(remaining, len(bucket.tensors))), out, wait=False)
        finish_stream(self.device)
        return PackedWeights(version=version, manifest=self.manifest, buckets=buckets, device=self.device)

    def hold(self, weights: PackedWeights) -> None:
        """One more reader: these buckets stay as they are until it calls `release`, too."""
        with self._lock:
            assert weights.num_readers > 0, "released memory may hold another version"
            weights.num_readers += 1

    def release(self, weights: PackedWeights) -> None:
        """One reader less. After the last one a later `pack` may overwrite these buckets."""
        with self._lock:
            assert weights.num_readers > 0, "released more often than held"
            weights.num_readers -= 1
            if not weights.num_readers:
                self._free.append(weights.buckets)
