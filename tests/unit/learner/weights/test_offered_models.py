"""Real policies through offering, encrypted socket and puller: what arrives is the learner's cast, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.messages import Offer, WeightReaders
from prolong.common.models import DTYPES
from prolong.common.types import Manifest
from prolong.common.weights.buckets import bucket_views, checksum
from prolong.common.weights.pull.store import ChunkStore
from prolong.learner.model.policy import Policy
from prolong.learner.weights import offering as offering_module
from prolong.learner.weights.packer import WeightPacker

from tests.support.batches import make_policy, small_config
from tests.support.offers import OfferingScene
from tests.support.pulls import make_client_keys, make_puller, make_update, soon
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering_module, "POLL_S", 0.01)


@torch.no_grad()
def step(policy: Policy, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def assert_holds(store: ChunkStore | None, manifest: Manifest, policy: Policy, dtype: torch.dtype, offer: Offer) -> None:
    assert store is not None
    held = dict(
        pair for bucket, flat in zip(manifest.buckets, store.buckets, strict=True) for pair in bucket_views(bucket, flat)
    )
    expected = dict(policy.full_parameters(dtype))
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        assert held[name].dtype == tensor.dtype
        assert torch.equal(held[name], tensor), name
    assert [checksum(flat) for flat in store.buckets] == offer.checksums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["tied", "untied", "adapters"])
def test_what_is_pulled_of_a_policy_is_its_cast_to_the_bit(kind: str, dtype: str, tmp_path: Path, polled: None) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=kind == "tied"))
    if kind == "adapters":
        cfg.model.lora = {"rank": 4}
    policy, cast = make_policy(cfg), DTYPES[dtype]
    packer, keys, client_keys = WeightPacker(policy.full_shapes(cast), 100_000), make_client_keys(), make_client_keys()
    scene = OfferingScene(WeightsConfig(transport="pull"), packer, keys)
    scene.offering.start()
    scene.say(WeightReaders(num_pullers=1, keys=[client_keys.public.decode()]))
    with make_puller(client_keys, chunk_bytes=4 << 20) as puller:
        for version in range(4):
            scene.publish(version, policy.full_parameters(cast))
            offer = scene.heard()
            update = make_update(offer.manifest, offer.version, offer.catalog, offer.source)
            result = puller.pull(update, soon())
            assert_holds(puller.store, offer.manifest, policy, cast, offer)
            if version:
                full = sum(bucket.num_bytes for bucket in offer.manifest.buckets)
                assert result.num_bytes < full, "what did not change much comes as deltas"
            step(policy, version, 1e-5)
    scene.offering.close()
