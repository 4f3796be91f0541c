from __future__ import annotations

import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.learner.weights import packer as packer_module
from prolong.learner.weights.packer import WeightPacker

SPECS = [("embed", torch.float32, (4, 4)), ("scale", torch.bfloat16, (3,)), ("head", torch.float32, (8, 8))]


def tensors(value: float) -> list[tuple[str, torch.Tensor]]:
    return [(name, torch.full(shape, value, dtype=dtype)) for name, dtype, shape in SPECS]


def test_weights_are_packed_bucket_by_bucket_from_an_iterator_that_is_never_ahead() -> None:
    """Gathering a sharded parameter takes memory: no more than one bucket's are alive at a time."""
    packer = WeightPacker(SPECS, 128)
    assert [[spec.name for spec in bucket.tensors] for bucket in packer.manifest.buckets] == [["embed", "scale"], ["head"]]
    weights = packer.pack(7, iter(tensors(1.5)))
    assert weights.version == 7
    assert [flat.numel() for flat in weights.buckets] == [bucket.num_bytes for bucket in packer.manifest.buckets]
    assert weights.buckets[1].view(torch.float32).tolist() == [1.5] * 64


def test_packed_weights_do_not_change_with_the_tensors() -> None:
    packer, source = WeightPacker(SPECS, 128), tensors(1.0)
    weights = packer.pack(0, source)
    before = weights.checksums()
    for _, tensor in source:
        tensor.zero_()
    assert weights.checksums() == before


def test_released_buckets_are_filled_again_and_others_never() -> None:
    packer = WeightPacker(SPECS, 128)
    first, second = packer.pack(0, tensors(0.0)), packer.pack(1, tensors(1.0))
    packer.release(first)
    third, fourth = packer.pack(2, tensors(2.0)), packer.pack(3, tensors(3.0))
    assert [a is b for a, b in zip(third.buckets, first.buckets, strict=True)] == [True, True]
    assert third.checksums() == WeightPacker(SPECS, 128).pack(2, tensors(2.0)).checksums()
    own = {flat.data_ptr() for flat in second.buckets}
    assert own.isdisjoint(flat.data_ptr() for flat in [*third.buckets, *fourth.buckets])


def test_buckets_that_two_hold_are_filled_again_after_the_second_release() -> None:
    packer = WeightPacker(SPECS, 128)
    weights = packer.pack(0, tensors(0.0))
    packer.hold(weights)
    packer.release(weights)
    assert packer.pack(1, tensors(1.0)).buckets is not weights.buckets
    packer.release(weights)
    assert packer.pack(2, tensors(2.0)).buckets is weights.buckets
    with pytest.raises(AssertionError, match="released"):
        packer.release(weights)


@pytest.mark.parametrize("given", [tensors(0.0)[:2], [tensors(0.0)[i] for i in (2, 0, 1)]], ids=["missing", "another order"])
def test_tensors_that_are_not_those_of_the_specs_are_refused(given: list[tuple[str, torch.Tensor]]) -> None:
    with pytest.raises(WeightsError, match=r"tensor \w+: got nothing"):
        WeightPacker(SPECS, 128).pack(0, given)


def test_weights_of_a_gpu_are_packed_into_page_locked_memory_of_the_host_and_awaited_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two packed versions on the GPU would take as much of it as the model's weights twice over."""
    asked, finished, gpu = [], [], torch.device("cuda", 0)

    def host_buffer(num_bytes: int, device: torch.device) -> torch.Tensor:
        asked.append((num_bytes, device))
        return torch.full((num_bytes,), 255, dtype=torch.uint8)

    monkeypatch.setattr(packer_module, "host_buffer", host_buffer)
    monkeypatch.setattr(packer_module, "finish_stream", finished.append)
    packer = WeightPacker(SPECS, 128, gpu)
    weights = packer.pack(0, tensors(0.0))
    assert asked == [(bucket.num_bytes, gpu) for bucket in packer.manifest.buckets]
    assert finished == [gpu]
    assert torch.equal(weights.buckets[0], WeightPacker(SPECS, 128).pack(0, tensors(0.0)).buckets[0]), "padding is zero"
    assert weights.device == gpu, "which computes the checksums, bucket by bucket"
