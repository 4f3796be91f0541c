"""Buckets, checksums and the process group of a membership epoch."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.types import BucketSpec, Manifest, TensorSpec
from prolong.common.weights import buckets as weights
from prolong.common.weights.buckets import bucket_views, check_manifest, checksum, fill_bucket, manifest_digest, plan_buckets
from prolong.common.weights.collective import WeightsGroup, WeightsStore


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


def test_unpack_returns_what_was_packed_bit_for_bit():
    tensors = some_tensors()
    received = {}
    for bucket in plan(tensors, 256).buckets:
        received.update(bucket_views(bucket, fill_bucket(bucket, tensors).clone()))
    assert list(received) == list(tensors)
    assert all(torch.equal(received[name], tensor) and received[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_pack_into_a_used_buffer_gives_the_same_bytes_as_into_a_fresh_one():
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
def test_pack_refuses_a_tensor_that_differs_from_the_manifest(wrong: dict[str, torch.Tensor]):
    manifest = plan({"head": some_tensors()["head"]}, 1024)
    with pytest.raises(WeightsError, match=r"tensor head: got .* the manifest says float32 \[16, 8\]"):
        fill_bucket(manifest.buckets[0], wrong)


def test_unpack_refuses_a_dtype_that_torch_does_not_have():
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


def test_layouts_tell_other_buckets_apart():
    tensors = some_tensors()
    layouts = {manifest_digest(plan(tensors, size)) for size in (64, 256, 1 << 20)}
    assert len(layouts) == 3
    assert manifest_digest(plan(tensors, 256)) in layouts


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


@pytest.fixture
def store():
    store = WeightsStore("127.0.0.1", timeout_s=5)
    yield store
    store.close()


def join(
    store: WeightsStore, rank: int, world_size: int, *, epoch: int = 1, timeout_s: float = 5.0, digest: str = ""
) -> WeightsGroup:
    return WeightsGroup.join(
        store.host,
        store.port,
        generation=1,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        timeout_s=timeout_s,
        digest=digest,
    )


def test_broadcasts_arrive_at_every_rank_in_order_and_epochs_do_not_mix(store: WeightsStore):
    def member(rank: int, epoch: int, world_size: int) -> list[int]:
        group = join(store, rank, world_size, epoch=epoch)
        received = []
        for i in range(3):
            flat = torch.full((64,), 10 * epoch + i if rank == 0 else 0, dtype=torch.uint8)
            group.broadcast(flat)
            received.append(int(flat[63]))
        group.close()
        return received

    with ThreadPoolExecutor(5) as pool:
        members = [pool.submit(member, rank, epoch, world) for epoch, world in ((1, 3), (2, 2)) for rank in range(world)]
        results = [future.result(timeout=10) for future in members]
    assert results == [[10, 11, 12]] * 3 + [[20, 21, 22]] * 2


def test_a_member_that_never_comes_is_an_error_within_the_deadline(store: WeightsStore):
    start = time.monotonic()
    with pytest.raises(WeightsError, match="rank 1 of 2 did not meet the others"):
        join(store, 1, 2, timeout_s=0.3)
    assert time.monotonic() - start < 0.9


def test_who_comes_after_rank_0_gave_up_is_told_at_once(store: WeightsStore):
    with pytest.raises(WeightsError, match="rank 0 of 2 did not meet the others"):
        join(store, 0, 2, timeout_s=0.2)
    start = time.monotonic()
    with pytest.raises(WeightsError, match="rank 0 gave up"):
        join(store, 1, 2, timeout_s=30)
    assert time.monotonic() - start < 0.5


def test_a_member_with_another_layout_is_turned_away_before_a_byte_flows(store: WeightsStore):
    """gloo would end the process of a member that expects less than it gets."""
    start = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        ranks = [pool.submit(join, store, rank, 3, digest="2-aa" if rank == 2 else "1-aa") for rank in range(3)]
        errors = [str(future.exception(timeout=4)) for future in ranks]
    assert all("here/2" in error and "other buckets" in error for error in errors), errors
    assert time.monotonic() - start < 2.0


def test_rank_0_stops_when_a_member_failed_though_its_own_peers_are_well(store: WeightsStore):
    """Of 4 ranks, 3 hangs on 2: rank 0 would never notice that it left, and 1 would receive to the end."""
    with ThreadPoolExecutor(4) as pool:
        groups = list(pool.map(lambda rank: join(store, rank, 4), range(4)))
        groups[3].fail()
        with pytest.raises(WeightsError, match="rank 3 gave up"):
            groups[0].broadcast(torch.zeros(16, dtype=torch.uint8))
        for group in groups[:3]:
            group.close()


def test_a_member_that_stalls_is_an_error_at_the_deadline_of_the_bucket(store: WeightsStore):
    with ThreadPoolExecutor(2) as pool:
        sender, receiver = pool.map(lambda rank: join(store, rank, 2), range(2))
    start = time.monotonic()
    with pytest.raises(WeightsError, match="weight broadcast of 16 bytes failed"):
        receiver.broadcast(torch.zeros(16, dtype=torch.uint8), 0.2)
    assert time.monotonic() - start < 0.7
    sender.close()
    receiver.close()


def test_a_store_that_is_gone_is_an_error_at_once(store: WeightsStore):
    store.close()
    with pytest.raises(WeightsError, match="did not meet the others"):
        join(store, 1, 2, timeout_s=30)


def test_a_sender_that_leaves_before_it_sent_is_an_error_and_the_next_epoch_works(store: WeightsStore):
    failed = threading.Event()

    def sender() -> None:
        join(store, 0, 2).close()
        assert failed.wait(10)
        group = join(store, 0, 2, epoch=2)
        group.broadcast(torch.full((16,), 7, dtype=torch.uint8))
        group.close()

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender)
        group = join(store, 1, 2)
        with pytest.raises(WeightsError, match="weight broadcast of 16 bytes failed"):
            group.broadcast(torch.zeros(16, dtype=torch.uint8))
        group.close()
        failed.set()
        group = join(store, 1, 2, epoch=2)
        flat = torch.zeros(16, dtype=torch.uint8)
        group.broadcast(flat)
        group.close()
        sent.result(timeout=10)
    assert flat.tolist() == [7] * 16


def test_an_address_of_another_machine_cannot_host_the_store():
    with pytest.raises(WeightsError, match=r"weights.host = 192\.0\.2\.1: cannot listen there"):
        WeightsStore("192.0.2.1", timeout_s=1)
