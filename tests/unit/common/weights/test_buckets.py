"""Buckets, manifests and checksums of a weight update."""

from __future__ import annotations

import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.types import BucketSpec, Manifest, TensorSpec
from prolong.common.weights import buckets as weights
from prolong.common.weights.buckets import bucket_views, check_manifest, checksum, fill_bucket, manifest_digest, plan_buckets


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "embed": torch.randn(8, 4, generator=generator),
        "scale": torch.randn(3, generator=generator).bfloat16(),
        "count": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "head": torch.randn(16, 8, generator=generator),
    }


def plan(tensors: dict[str, torch.Tensor], bucket_bytes: int):
    return plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()], bucket_bytes)


def test_plan_keeps_order_aligns_to_16_bytes_and_respects_the_limit():
    manifest = plan(some_tensors(), 256)
    assert [[spec.name for spec in bucket.tensors] for bucket in manifest.buckets] == [
        ["embed", "scale", "count", "scalar"],
        ["head"],
    ]
    first = manifest.buckets[0]
    assert [spec.offset for spec in first.tensors] == [0, 128, 144, 192]
    assert [bucket.num_bytes for bucket in manifest.buckets] == [208, 512]  # the larger one stands alone
    assert [spec.dtype for spec in first.tensors] == ["float32", "bfloat16", "int64", "float32"]


def test_bucket_views_are_what_was_filled_in_bit_for_bit():
    tensors = some_tensors()
    received = {}
    for bucket in plan(tensors, 256).buckets:
        received.update(bucket_views(bucket, fill_bucket(bucket, tensors).clone()))
    assert list(received) == list(tensors)
    assert all(torch.equal(received[name], tensor) and received[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_filling_a_used_buffer_gives_the_same_bytes_as_into_a_fresh_one():
    tensors = some_tensors()
    bucket = plan(tensors, 1 << 20).buckets[0]
    other = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    used = fill_bucket(bucket, other)
    assert torch.equal(fill_bucket(bucket, tensors, out=used), fill_bucket(bucket, tensors))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"head": torch.zeros(8, 16)}, {"head": torch.zeros(16, 8, dtype=torch.float64)}],
    ids=["missing", "shape", "dtype"],
)
def test_fill_bucket_refuses_a_tensor_that_differs_from_the_manifest(wrong: dict[str, torch.Tensor]):
    manifest = plan({"head": some_tensors()["head"]}, 1024)
    with pytest.raises(WeightsError, match=r"tensor head: got .* the manifest says float32 \[16, 8\]"):
        fill_bucket(manifest.buckets[0], wrong)


def test_bucket_views_refuse_a_dtype_that_torch_does_not_have():
    bucket = plan_buckets([("a", "float32", [4])], 1024).buckets[0]
    forged = type(bucket)(num_bytes=16, tensors=[type(bucket.tensors[0])(name="a", dtype="load", shape=[4], offset=0)])
    with pytest.raises(WeightsError, match="dtype 'load'"):
        bucket_views(forged, torch.zeros(16, dtype=torch.uint8))


def forged(num_bytes: int, *tensors: tuple[str, list[int], int]) -> Manifest:
    specs = [TensorSpec(name=f"t{i}", dtype=dtype, shape=shape, offset=at) for i, (dtype, shape, at) in enumerate(tensors)]
    return Manifest(buckets=[BucketSpec(num_bytes=num_bytes, tensors=specs)])


@pytest.mark.parametrize(
    "manifest",
    [
        forged(16, ("float32", [8], 0)),
        forged(64, ("float32", [8], 0), ("float32", [4], 16)),
        forged(64, ("float32", [4], 8)),
        forged(64, ("float32", [4], -16)),
        forged(64, ("float32", [-4], 0)),
        forged(60, ("float32", [4], 0)),
    ],
    ids=["beyond its bucket", "over another", "unaligned", "before its bucket", "negative", "bucket of odd size"],
)
def test_a_manifest_whose_tensors_do_not_fit_is_refused(manifest: Manifest):
    check_manifest(plan(some_tensors(), 256))
    with pytest.raises(WeightsError, match="manifest: tensor"):
        check_manifest(manifest)


def test_digests_tell_other_manifests_apart():
    tensors = some_tensors()
    digests = {manifest_digest(plan(tensors, size)) for size in (64, 256, 1 << 20)}
    assert len(digests) == 3
    assert manifest_digest(plan(tensors, 256)) in digests


def naive_checksum(flat: torch.Tensor) -> int:
    """The same formula with Python's integers, modulo 2^64."""
    mask = (1 << 64) - 1

    def shift(value: int, bits: int) -> int:  # arithmetic, like int64's
        signed = value - (1 << 64) if value >> 63 else value
        return (signed >> bits) & mask

    total = 0
    for i, word in enumerate(flat.view(torch.int64).tolist()):
        mixed = (word + i * 0x9E3779B97F4A7C15) & mask
        mixed = (mixed ^ shift(mixed, 32)) * 0xBF58476D1CE4E5B9 & mask
        total += mixed ^ shift(mixed, 29)
    total &= mask
    return total - (1 << 64) if total >> 63 else total


def test_checksum_is_the_formula_and_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch):
    flat = torch.randint(0, 256, (8 * 1000,), dtype=torch.uint8)
    expected = naive_checksum(flat)
    for chunk in (1 << 15, 333, 1):
        monkeypatch.setattr(weights, "_CHUNK", chunk)
        assert checksum(flat) == expected


def test_checksum_sees_a_flipped_bit_a_swap_and_a_shift():
    words = torch.randn(8192).bfloat16().float()  # low bits zero, as in widened weights
    seen = {checksum(words.view(torch.uint8))}
    for i in (1, 2, 1024, 2048):  # swaps at distances that are powers of two
        swapped = words.clone().view(-1, 2)
        swapped[[0, i]] = swapped[[i, 0]]
        seen.add(checksum(swapped.view(torch.uint8).flatten()))
    seen.add(checksum(words.roll(2).view(torch.uint8)))
    flipped = words.view(torch.uint8).clone()
    flipped[5] ^= 1
    seen.add(checksum(flipped))
    assert len(seen) == 7


def test_checksum_refuses_a_length_that_is_no_multiple_of_eight():
    with pytest.raises(WeightsError, match="12 bytes"):
        checksum(torch.zeros(12, dtype=torch.uint8))
