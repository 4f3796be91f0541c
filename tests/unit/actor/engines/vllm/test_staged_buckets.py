from __future__ import annotations

import pytest
import torch
from prolong.actor.engines.vllm.staged_buckets import staged_tensors
from prolong.common.weights.buckets import fill_bucket, plan_buckets

MANIFEST = plan_buckets([("a", "float32", (4,)), ("b", "float32", (4,))], 16)
# stands for the GPU: it holds no bytes, and what is made on it is seen
GPU = torch.device("meta")


def staged() -> list[torch.Tensor]:
    tensors = {"a": torch.ones(4), "b": torch.full((4,), 2.0)}
    return [fill_bucket(bucket, tensors) for bucket in MANIFEST.buckets]


def test_one_worker_loads_from_host_memory_so_that_its_gpu_holds_no_second_model() -> None:
    tensors = dict(view for views in staged_tensors(MANIFEST, staged(), GPU, None) for view in views)
    values = {name: (tensor.device.type, tensor.tolist()) for name, tensor in tensors.items()}
    assert values == {"a": ("cpu", [1.0] * 4), "b": ("cpu", [2.0] * 4)}


@pytest.mark.parametrize("first", [True, False])
def test_several_workers_get_one_bucket_after_the_other_on_their_gpus(first: bool) -> None:
    handed: list[torch.Tensor] = []

    def hand_over(flat: torch.Tensor) -> torch.Tensor:
        handed.append(flat)
        return flat

    buckets = staged_tensors(MANIFEST, staged() if first else [], GPU, hand_over)
    for number, views in enumerate(buckets, start=1):
        assert [tensor.device for _, tensor in views] == [GPU]
        assert len(handed) == number, "the next one is handed over when this one is loaded"
    assert [flat.numel() for flat in handed] == [bucket.num_bytes for bucket in MANIFEST.buckets]
