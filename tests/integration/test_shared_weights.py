"""Every engine loads weights that its actor pulled: out of shared memory, which is written again as soon as they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.messages import UpdateWeights
from prolong.common.weights.buckets import checksum, fill_bucket, plan_buckets
from prolong.common.weights.shared import SharedBuckets

from tests.support.adapted import adapted_policy, gaps
from tests.support.engine_rig import BUCKET_BYTES, TIMEOUT_S, Rig, differences
from tests.support.tiny_model import randomize


@contextmanager
def in_shared_memory(rig: Rig, version: int, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[SharedBuckets, UpdateWeights]]:
    """These tensors where a pull leaves them, and the update that the engine gets."""
    manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()], BUCKET_BYTES)
    shared = SharedBuckets.allocate(manifest)
    for bucket, flat in zip(manifest.buckets, shared.buckets, strict=True):
        fill_bucket(bucket, tensors, out=flat)
    update = msgspec.structs.replace(rig.update(version, manifest), epoch=-1, rendezvous=shared.seal())
    try:
        yield shared, update
    finally:
        shared.close()


def load_then_overwrite(rig: Rig, version: int, tensors: dict[str, torch.Tensor]) -> None:
    with in_shared_memory(rig, version, tensors) as (shared, update):
        sums = [checksum(flat) for flat in shared.buckets]
        assert rig.run(rig.engine.apply_weights(update, TIMEOUT_S)) == sums
        shared.unseal()
        for flat in shared.buckets:
            flat.fill_(255)
        with pytest.raises(WeightsError, match="overwritten by a newer version"):
            rig.run(rig.engine.apply_weights(update, TIMEOUT_S))
    assert rig.version == version


def test_the_engine_keeps_nothing_of_the_memory_that_it_loaded(rig: Rig) -> None:
    version = rig.version + 1
    randomize(rig.model, version)
    weights = {name: parameter.detach().clone() for name, parameter in rig.model.named_parameters()}
    rig.versions[version] = weights
    load_then_overwrite(rig, version, weights)
    assert differences(rig, rig.generate(seed=version), 1.0, version).mean() < 1e-5
    # and a broadcast works as before
    rig.run(rig.push(version + 1, new_epoch=True))


def test_adapters_come_the_same_way(any_rig: Rig) -> None:
    version = any_rig.version + 1
    policy = adapted_policy(any_rig.path, version)
    load_then_overwrite(any_rig, version, dict(policy.full_parameters(torch.float32)))
    assert gaps(any_rig, policy, seed=version).max() < 1e-4
    any_rig.run(any_rig.push(version + 1, new_epoch=True))
