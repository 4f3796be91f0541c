"""The layout of a weight update: tensors in flat buckets, and the checksum that proves them equal on both sides.

names, dtypes, shapes --plan_buckets--> Manifest
tensors --fill_bucket--> flat bucket --a transport (api.py)--> flat bucket --bucket_views--> named tensors
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import msgspec
import torch
from isal.isal_zlib import crc32

from ..errors import WeightsError
from ..types import BucketSpec, Manifest, TensorSpec
from .staging import ALIGNMENT, GPU_CHUNK, aligned

_CHUNK = 1 << 15  # words that a checksum takes at once: its temporaries then stay in a core's cache
CPU = torch.device("cpu")
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed integer
_MIX = -4658895280553007687  # of splitmix64

TensorShape = tuple[str, torch.dtype | str, Iterable[int]]  # name, dtype, shape


@dataclass(slots=True)
class PackedWeights:
    """The weights of one version, as every transport sends them: one flat tensor of the host per bucket of the manifest."""

    version: int
    manifest: Manifest
    buckets: list[torch.Tensor]  # each [num_bytes] uint8
    device: torch.device = CPU  # where checksums are computed
    num_readers: int = 1  # that still need the buckets; of the learner's packer, which overwrites them afterwards

    def checksums(self) -> list[int]:
        """One number per bucket, as an actor acknowledges them."""
        return [checksum(flat.to(self.device)) for flat in self.buckets]


def dtype_name(dtype: torch.dtype | str) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def named_dtype(name: str) -> torch.dtype:
    """ "float32" -> torch.float32. Raises WeightsError when torch has no dtype of that name."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise WeightsError(f"manifest names the dtype {name!r}: expected one of torch's, like float32 or bfloat16")
    return dtype


def plan_buckets(specs: Iterable[TensorShape], bucket_bytes: int) -> Manifest:
    """Put the tensors, in their order, into buckets of at most `bucket_bytes`. A larger tensor gets a bucket of its own."""
    buckets: list[BucketSpec] = []
    tensors: list[TensorSpec] = []
    offset = 0
    for name, dtype, dimensions in specs:
        shape = list(dimensions)
        size = aligned(prod(shape) * named_dtype(dtype_name(dtype)).itemsize)
        if tensors and offset + size > bucket_bytes:
            buckets.append(BucketSpec(num_bytes=offset, tensors=tensors))
            tensors, offset = [], 0
        tensors.append(TensorSpec(name=name, dtype=dtype_name(dtype), shape=shape, offset=offset))
        offset += size
    if tensors:
        buckets.append(BucketSpec(num_bytes=offset, tensors=tensors))
    return Manifest(buckets=buckets)


def check_manifest(manifest: Manifest) -> None:
    """Raise WeightsError unless every tensor is aligned, lies in its bucket behind the one before, and has a torch dtype."""
    for bucket in manifest.buckets:
        end = 0
        for spec in bucket.tensors:
            if spec.offset < end or spec.offset % ALIGNMENT or min(spec.shape, default=0) < 0:
                raise WeightsError(f"manifest: tensor {spec.name} {spec.shape} at {spec.offset}, the one before ends at {end}")
            end = spec.offset + prod(spec.shape) * named_dtype(spec.dtype).itemsize
        if end > bucket.num_bytes or bucket.num_bytes % ALIGNMENT:
            raise WeightsError(f"manifest: tensors of {end} bytes in a bucket of {bucket.num_bytes}")


def manifest_digest(manifest: Manifest) -> str:
    """A short text that is the same for equal manifests and, but for one chance in 2^32, different for others."""
    return f"{len(manifest.buckets)}-{crc32(msgspec.msgpack.encode(manifest)):08x}"


def fill_bucket(
    bucket: BucketSpec, tensors: Mapping[str, torch.Tensor], out: torch.Tensor | None = None, *, wait: bool = True
) -> torch.Tensor:
    """Copy the bucket's tensors into one flat tensor, [num_bytes] uint8 on their device. The padding between them is zero.

    `out`, if given, is filled and returned. Its padding is not written, so it must be zero.
    Without `wait`, copies from a GPU into page-locked memory may go on after the call (`gpu_memory.finish_stream`).
    Raises WeightsError if a tensor is missing, or has another shape or dtype than the manifest says.
    """
    if out is None:
        device = next((tensors[spec.name].device for spec in bucket.tensors if spec.name in tensors), torch.device("cpu"))
        out = torch.zeros(bucket.num_bytes, dtype=torch.uint8, device=device)
    for spec, view in zip(bucket.tensors, _views(bucket, out), strict=True):
        tensor = tensors.get(spec.name)
        if tensor is None or tensor.dtype != view.dtype or tensor.shape != view.shape:
            got = "nothing" if tensor is None else f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
            raise WeightsError(f"tensor {spec.name}: got {got}, the manifest says {spec.dtype} {spec.shape}")
        view.copy_(tensor.detach(), non_blocking=not wait)
    return out


def bucket_views(bucket: BucketSpec, flat: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The bucket's tensors as named views into `flat`, [num_bytes] uint8, in the manifest's order. Nothing is copied."""
    return [(spec.name, view) for spec, view in zip(bucket.tensors, _views(bucket, flat), strict=True)]


def checksum(flat: torch.Tensor) -> int:
    """The sum, as a signed 64-bit integer, of the scrambled (word, position) pairs of `flat`, [n] uint8, n a multiple of 8.

    CPU and GPU agree, because integer arithmetic modulo 2^64 is exact in any order. Words that were flipped, moved or swapped
    change the sum. The scrambler is the end of splitmix64 (Steele, Lea, Flood 2014). It detects faults, not forgeries.
    """
    if flat.numel() % 8:
        raise WeightsError(f"checksum of {flat.numel()} bytes: expected a multiple of 8")
    words = flat.view(torch.int64)
    chunk = _CHUNK if flat.device.type == "cpu" else GPU_CHUNK
    positions = torch.arange(min(chunk, words.numel()), dtype=torch.int64, device=flat.device).mul_(_GOLDEN)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, words.numel(), chunk):
        part = words[start : start + chunk]
        mixed = positions[: part.numel()] + part
        mixed.add_(_signed(start * _GOLDEN))
        mixed.bitwise_xor_(mixed >> 32).mul_(_MIX)
        mixed.bitwise_xor_(mixed >> 29)
        total += mixed.sum()
    return int(total)


def _views(bucket: BucketSpec, flat: torch.Tensor) -> Iterable[torch.Tensor]:
    for spec in bucket.tensors:
        dtype = named_dtype(spec.dtype)
        yield flat[spec.offset : spec.offset + prod(spec.shape) * dtype.itemsize].view(dtype).view(spec.shape)


def _signed(value: int) -> int:
    """`value` modulo 2^64, as a signed 64-bit integer."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
