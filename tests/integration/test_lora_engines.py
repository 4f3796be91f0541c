"""Engines that get adapters alone: they sample from the learner's policy, go back and forth, and refuse another base."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from prolong.common.adapters import BASE
from prolong.common.config.choices import Device, EngineKind
from prolong.common.errors import ProlongError

from tests.support.adapted import adapted_policy, gaps
from tests.support.engine_rig import TIMEOUT_S, Rig, differences, rig_for
from tests.support.tiny_model import make_tiny_model


async def push(rig: Rig, version: int, tensors: dict[str, torch.Tensor]) -> int:
    """Send and apply these tensors; their number of bytes."""
    update, sent = rig.offer_tensors(version, tensors)
    assert await rig.engine.apply_weights(update, TIMEOUT_S) == await asyncio.wrap_future(sent)
    return sum(bucket.num_bytes for bucket in update.manifest.buckets)


def test_an_engine_that_gets_adapters_samples_from_the_learners_policy(any_rig: Rig) -> None:
    """Also after other adapters, whole weights, and adapters again: nothing adds up."""
    policies = {version: adapted_policy(any_rig.path, version) for version in (901, 902)}
    tensors = {version: dict(policy.full_parameters(torch.float32)) for version, policy in policies.items()}
    whole = {name: value.detach() for name, value in any_rig.model.named_parameters()}
    size = 0
    for version in (901, 902, 901):
        size = any_rig.run(push(any_rig, version, tensors[version]))
        assert gaps(any_rig, policies[version], seed=version).max() < 1e-4
    full_size = any_rig.run(push(any_rig, 903, whole))
    any_rig.run(push(any_rig, 902, tensors[902]))
    assert gaps(any_rig, policies[902]).max() < 1e-4
    assert gaps(any_rig, policies[901]).max() > 0.1
    assert size < full_size / 3
    # the next test finds weights that the rig knows
    any_rig.run(any_rig.push(904))


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    """The same shapes, other weights. An engine that took them is not used any more, so it is one of its own."""
    rig = rig_for(make_tiny_model(tmp_path / "model", tied=True), EngineKind.transformers)
    try:
        tensors = dict(adapted_policy(rig.path, 1).full_parameters(torch.float32))
        tensors[BASE] = tensors[BASE] + 1
        with pytest.raises(ProlongError, match="the files here hold other weights than the model whose adapters the learner"):
            rig.run(push(rig, 1, tensors))
    finally:
        rig.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [Device.cpu, pytest.param(Device.cuda, marks=pytest.mark.gpu)], ids=lambda device: device.name
)
def test_in_bfloat16_engine_and_learner_round_the_same_weights(tmp_path: Path, device: Device) -> None:
    """The weights are equal; what differs is how both multiply with them, as in a model without adapters."""
    rig = rig_for(make_tiny_model(tmp_path / "model", tied=False), dtype="bfloat16", device=device)
    try:
        policy = adapted_policy(rig.path, 5, torch.bfloat16)
        rig.run(push(rig, 5, dict(policy.full_parameters(torch.bfloat16))))
        adapted = gaps(rig, policy).mean()
        rig.model.to(torch.bfloat16)
        rig.run(rig.push(6))
        assert adapted < 2 * differences(rig, rig.generate(), 1.0, 6).mean() < 0.1
    finally:
        rig.close()
