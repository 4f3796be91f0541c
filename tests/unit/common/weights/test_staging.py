"""The memory of an update, as arithmetic, against the buckets that are really made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prolong.common.weights import buckets as buckets_module
from prolong.common.weights.buckets import checksum, plan_buckets
from prolong.common.weights.staging import CHECKSUM_BYTES, COMMUNICATOR_BYTES, bucket_sizes, staging_bytes
from torch.utils._python_dispatch import TorchDispatchMode

GB = 10**9


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 400))
def test_the_sizes_of_buckets_are_those_of_the_manifest(sizes: list[int], bucket_bytes: int) -> None:
    manifest = plan_buckets([(f"t{i}", "uint8", (size,)) for i, size in enumerate(sizes)], bucket_bytes)
    assert [bucket.num_bytes for bucket in manifest.buckets] == bucket_sizes(sizes, bucket_bytes)


def test_a_model_of_32_billion_parameters_takes_two_versions_of_the_learners_host_and_buckets_of_its_gpu() -> None:
    """152k tokens of 5,120 features in bfloat16, tied to nothing; 64 layers of 15 GB in tensors of 100 MB."""
    embedding = 152_064 * 5120 * 2
    sizes = [embedding, *([100_000_000] * 620), embedding]
    staged = staging_bytes(sizes, 256 << 20)
    assert sum(sizes) < staged.actor_host < 2.0 * sum(sizes), "page-locked blocks are rounded up to powers of two"
    assert staged.learner_host == 2 * staged.actor_host
    fixed = CHECKSUM_BYTES + COMMUNICATOR_BYTES
    assert staged.learner_device == 2 * embedding + fixed
    assert staged.actor_device == 2 * embedding + fixed
    assert staged.actor_device < 3.5 * GB, "a whole second model were 64 GB"


def test_without_a_tensor_larger_than_a_bucket_a_gpu_holds_buckets_only() -> None:
    staged = staging_bytes([1 << 20] * 4096, 256 << 20)
    assert staged.actor_host == 4096 << 20
    assert staged.actor_device == 2 * (256 << 20) + CHECKSUM_BYTES + COMMUNICATOR_BYTES
    assert staging_bytes([1 << 20] * 4096, 256 << 20, 2).actor_device == staged.actor_device + (256 << 20)


def test_weights_that_are_pulled_take_a_store_and_its_deltas_of_the_learners_host_alone() -> None:
    sizes = [3 << 20] * 100
    broadcast, pulled = staging_bytes(sizes, 7 << 20), staging_bytes(sizes, 7 << 20, pulled=True)
    assert pulled.learner_host == broadcast.learner_host + 2 * sum(sizes)
    assert pulled[1:] == broadcast[1:]
    served = staging_bytes(sizes, 7 << 20, pulled=True, served=True)
    assert served == pulled._replace(actor_host=pulled.actor_host + sum(sizes))


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes."""

    def __init__(self, given: torch.Tensor) -> None:
        """Views of `given` are not made."""
        super().__init__()
        self.num_bytes, self._given = 0, given.untyped_storage().data_ptr()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() != self._given:
            self.num_bytes = max(self.num_bytes, made.numel() * made.itemsize)
        return made


@pytest.mark.parametrize("chunk", [64, 128])
def test_a_checksum_makes_no_temporary_larger_than_a_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets_module, "_CHUNK", chunk)
    flat = torch.arange(1 << 14, dtype=torch.int64).view(torch.uint8)
    with Largest(flat) as largest:
        checksum(flat)
    assert largest.num_bytes == 8 * chunk
    assert CHECKSUM_BYTES <= 32 << 20
