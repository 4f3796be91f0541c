"""Chunks cover every bucket once, and know the width of their elements."""

from __future__ import annotations

import pytest
import torch
from prolong.common.types import BucketSpec, Manifest
from prolong.common.weights.buckets import plan_buckets
from prolong.common.weights.pull.chunks import CHUNK_BYTES, Chunk, ChunkLayout


def test_chunks_cover_each_bucket_once_and_in_order() -> None:
    manifest = plan_buckets([("a", "bfloat16", [40]), ("b", "bfloat16", [100]), ("c", "float32", [3])], 96)
    assert [bucket.num_bytes for bucket in manifest.buckets] == [80, 208, 16]
    layout = ChunkLayout(manifest, 64)
    assert layout.chunks == [
        Chunk(0, 0, 64, 2),
        Chunk(0, 64, 16, 2),
        Chunk(1, 0, 64, 2),
        Chunk(1, 64, 64, 2),
        Chunk(1, 128, 64, 2),
        Chunk(1, 192, 16, 2),
        Chunk(2, 0, 16, 4),
    ]
    assert layout.num_bytes == 304
    buckets = [torch.arange(bucket.num_bytes).to(torch.uint8) for bucket in manifest.buckets]
    parts = [layout.view(buckets, index) for index in range(len(layout.chunks))]
    assert torch.equal(torch.cat(parts), torch.cat(buckets))
    parts[3].zero_()
    assert buckets[1][64:128].sum() == 0


def test_a_chunk_of_several_dtypes_has_the_width_of_the_smallest() -> None:
    specs = [("a", "float32", [16]), ("b", "bfloat16", [4]), ("c", "complex128", [4]), ("d", "uint8", [1]), ("e", "int64", [0])]
    layout = ChunkLayout(plan_buckets(specs, 1 << 20), 64)
    assert [chunk.width for chunk in layout.chunks] == [4, 2, 1]
    assert [chunk.width for chunk in ChunkLayout(plan_buckets([("c", "complex128", [4])], 64)).chunks] == [8]


def test_empty_and_unused_parts_of_buckets() -> None:
    assert ChunkLayout(Manifest(buckets=[BucketSpec(num_bytes=0, tensors=[])])).chunks == []
    assert ChunkLayout(Manifest(buckets=[BucketSpec(num_bytes=32, tensors=[])])).chunks == [Chunk(0, 0, 32, 1)]


@pytest.mark.parametrize("chunk_bytes", [0, 8, 24])
def test_chunks_that_would_cut_elements_are_refused(chunk_bytes: int) -> None:
    assert CHUNK_BYTES % 16 == 0
    with pytest.raises(ValueError, match="multiple of 16"):
        ChunkLayout(Manifest(buckets=[]), chunk_bytes)
