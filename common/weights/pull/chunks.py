"""The chunks into which a manifest's buckets are cut: the unit of every request, delta, digest and repair."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch

from ...types import BucketSpec, Manifest
from ..buckets import named_dtype
from ..staging import ALIGNMENT

CHUNK_BYTES = 4 << 20
MAX_WIDTH = 8  # bytes of an element in a delta; it divides ALIGNMENT, so that no element is cut


class Chunk(NamedTuple):
    """A part of one bucket."""

    bucket: int  # index in the manifest
    offset: int  # bytes, a multiple of 16
    num_bytes: int  # a multiple of 16, at most the layout's chunk_bytes
    width: int  # bytes of an element: of the smallest dtype among the chunk's tensors


class ChunkLayout:
    """All chunks of a manifest, in the order of their buckets. Equal manifests give equal layouts in every process.

    Example: ChunkLayout(manifest).view(store.buckets, 3)  # the fourth chunk: [num_bytes] uint8, a view
    """

    def __init__(self, manifest: Manifest, chunk_bytes: int = CHUNK_BYTES) -> None:
        """`manifest` has passed check_manifest. `chunk_bytes`: a multiple of 16; tests take small ones."""
        if chunk_bytes < ALIGNMENT or chunk_bytes % ALIGNMENT:
            raise ValueError(f"chunks of {chunk_bytes} bytes: expected a multiple of {ALIGNMENT}")
        self.manifest = manifest
        self.chunks = [chunk for number, bucket in enumerate(manifest.buckets) for chunk in _cut(number, bucket, chunk_bytes)]
        self.num_bytes = sum(chunk.num_bytes for chunk in self.chunks)

    def view(self, buckets: Sequence[torch.Tensor], index: int) -> torch.Tensor:
        """Chunk `index` of flat buckets: [num_bytes] uint8. Nothing is copied."""
        chunk = self.chunks[index]
        return buckets[chunk.bucket][chunk.offset : chunk.offset + chunk.num_bytes]


def _cut(number: int, bucket: BucketSpec, chunk_bytes: int) -> list[Chunk]:
    widths = [0] * -(-bucket.num_bytes // chunk_bytes)
    for spec in bucket.tensors:
        itemsize = named_dtype(spec.dtype).itemsize
        end = spec.offset + prod(spec.shape) * itemsize
        for part in range(spec.offset // chunk_bytes, -(-end // chunk_bytes) if end > spec.offset else 0):
            widths[part] = min(widths[part] or MAX_WIDTH, itemsize)
    offsets = range(0, bucket.num_bytes, chunk_bytes)
    return [
        Chunk(number, offset, min(chunk_bytes, bucket.num_bytes - offset), width or 1)
        for offset, width in zip(offsets, widths, strict=True)
    ]
