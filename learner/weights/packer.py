"""Copies the policy's tensors into the flat buckets of an update: the only part of a publish on the learner's critical path."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from queue import Empty, SimpleQueue

from torch import Tensor

from ...common.types import Manifest
from ...common.weights.buckets import PackedWeights, TensorShape, fill_bucket, plan_buckets


class WeightPacker:
    """Packs one version after the other into memory that `recycle` gave back. Any thread may call it.

    Example:
        packer = WeightPacker([("embed", torch.float32, (8, 4)), ("head", torch.float32, (4, 8))], bucket_bytes=1 << 20)
        weights = packer.pack(7, model.named_parameters())
        packer.recycle(weights)  # once no one reads it
    """

    def __init__(self, specs: Iterable[TensorShape], bucket_bytes: int) -> None:
        """`specs` name all tensors, in the order in which `pack` gets them."""
        self.manifest: Manifest = plan_buckets(specs, bucket_bytes)
        self._free: SimpleQueue[list[Tensor]] = SimpleQueue()

    def pack(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> PackedWeights:
        """Copy the tensors, bucket by bucket, so that no more of them than one bucket's need to exist at once.

        Raises WeightsError if a tensor is missing, or has another name, shape or dtype than `specs` said.
        """
        try:
            used: list[Tensor] | list[None] = self._free.get_nowait()
        except Empty:
            used = [None] * len(self.manifest.buckets)
        remaining = iter(tensors)
        buckets = [
            fill_bucket(bucket, dict(islice(remaining, len(bucket.tensors))), out)
            for bucket, out in zip(self.manifest.buckets, used, strict=True)
        ]
        return PackedWeights(version=version, manifest=self.manifest, buckets=buckets)

    def recycle(self, weights: PackedWeights) -> None:
        """Let a later `pack` overwrite these buckets."""
        self._free.put(weights.buckets)
