"""The contract of `actor/engines/api.py`: weights in flight, against transformers' recomputation in float32."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest
import torch
from prolong.common.errors import WeightsError
from prolong.common.types import float32_array, int32_array
from prolong.common.weights.buckets import plan_buckets
from prolong.common.weights.collective import CollectiveRendezvous

from tests.support.engine_rig import EOS, PROMPT, TIMEOUT_S, Rig, differences


def test_behaviour_logprobs_agree_with_a_recompute_after_every_update(rig: Rig):
    first = rig.version + 1
    for version in range(first, first + 3):
        rig.run(rig.push(version))
        completions = rig.generate(seed=version)
        assert all([span.version for span in completion.spans] == [version] for completion in completions)
        apart = differences(rig, completions, 1.0, version)
        assert apart.mean() < 1e-5
        assert differences(rig, completions, 1.0, version - 1).mean() > 0.1  # the weights did change


def test_the_on_policy_ratio_is_one_at_temperature_1_2(rig: Rig):
    completions = rig.generate(temperature=1.2, seed=11)
    ratios = np.exp(differences(rig, completions, 1.2, rig.version))
    assert np.abs(ratios - 1).max() < 1e-4


def test_greedy_output_after_updates_is_transformers_greedy_output(rig: Rig):
    rig.run(rig.push(rig.version + 1))
    (completion,) = rig.generate(n=1, temperature=0.0, max_tokens=40)
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        while ids.shape[1] < len(PROMPT) + 40 and (ids.shape[1] == len(PROMPT) or int(ids[0, -1]) != EOS):
            ids = torch.cat([ids, rig.model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert int32_array(completion.token_ids).tolist() == ids[0, len(PROMPT) :].tolist()
    assert differences(rig, [completion], 0.0, rig.version).max() < 1e-5


def test_the_same_weights_give_the_same_bits_whatever_was_loaded_between(rig: Rig):
    version = rig.version + 1
    outputs = []
    for loaded in (version, version + 1, version):
        rig.run(rig.push(loaded))
        outputs.append(rig.generate(temperature=0.0, n=1, max_tokens=40))
    before, between, after = ([(c.token_ids, c.behaviour_logprobs) for c in output] for output in outputs)
    assert before == after
    assert before != between


def test_rollouts_in_flight_go_on_and_carry_the_version_of_every_token(rig: Rig):
    """With 256 in flight their tokens are more than vLLM prefills in one step: its own CPU sampler dies of that."""
    old = rig.version
    new = old + 1

    async def scenario():
        ended = asyncio.Semaphore(0)

        async def collect(seed: int):
            completions = []
            async for _, completion in rig.engine.generate(rig.ticket(seed=seed, max_tokens=240)):
                completions.append(completion)
                ended.release()
            return completions

        tickets = [asyncio.create_task(collect(seed)) for seed in range(16)]
        for _ in range(40):
            await ended.acquire()
        await rig.push(new)
        return [completion for ticket in tickets for completion in await ticket]

    completions = rig.run(scenario())
    crossed = [completion for completion in completions if len(completion.spans) == 2]
    assert len(completions) == 256
    assert len(crossed) > 100
    before, after, swapped = [], [], []
    for completion in crossed:
        first, second = completion.spans
        assert (first.version, second.version) == (old, new)
        assert first.start == 0
        assert 0 < first.end == second.start < second.end == completion.num_tokens
        behaviour = float32_array(completion.behaviour_logprobs)
        under_old, under_new = (rig.recompute(completion, 1.0, version) for version in (old, new))
        before.append(np.abs(under_old - behaviour)[: first.end])
        after.append(np.abs(under_new - behaviour)[second.start :])
        swapped.append(np.abs(under_old - behaviour)[second.start :])
    assert np.concatenate(before).mean() < 1e-5
    assert np.concatenate(after).mean() < 1e-5
    assert np.concatenate(swapped).mean() > 0.1


SENDER = """
import os, sys, torch
from prolong.common.weights.collective_group import WeightsGroup
port, epoch, num_bytes = map(int, sys.argv[1:])
where = dict(generation=1, epoch=epoch, rank=0, world_size=2, device=torch.device("cpu"), timeout_s=20)
print("ready", flush=True)
group = WeightsGroup.join("127.0.0.1", port, **where)
group.broadcast(torch.ones(num_bytes, dtype=torch.uint8))
os._exit(9)
"""


def test_a_sender_that_dies_between_buckets_leaves_the_weights_untouched_and_the_next_epoch_works(any_rig: Rig):
    rig = any_rig
    rig.leave()
    held = rig.version
    before = rig.generate(temperature=0.0, n=1)
    tensors = rig.versions[held]
    manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()], 100_000)
    assert len(manifest.buckets) >= 3
    port = msgspec.msgpack.decode(rig.end.rendezvous.address, type=CollectiveRendezvous).port
    arguments = [str(port), str(rig.epoch), str(manifest.buckets[0].num_bytes)]
    sender = subprocess.Popen([sys.executable, "-c", SENDER, *arguments], stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    assert sender.stdout.readline() == "ready\n"

    async def scenario() -> int:
        inflight = asyncio.create_task(rig.collect(rig.ticket(seed=1)))
        start = time.monotonic()
        with pytest.raises(WeightsError, match="weight broadcast of"):
            await rig.engine.apply_weights(rig.update(held + 1, manifest), TIMEOUT_S)
        assert time.monotonic() - start < TIMEOUT_S
        return len(await inflight)

    assert rig.run(scenario()) == 16  # generation went on
    assert sender.wait(60) == 9
    sender.stdout.close()
    assert rig.version == held
    assert [c.behaviour_logprobs for c in rig.generate(temperature=0.0, n=1)] == [c.behaviour_logprobs for c in before]
    rig.run(rig.push(held + 1, new_epoch=True))
    completions = rig.generate(seed=2)
    assert differences(rig, completions, 1.0, held + 1).mean() < 1e-5


def test_a_sender_that_never_comes_is_an_error_within_the_deadline(any_rig: Rig):
    any_rig.leave()
    tensors = any_rig.versions[any_rig.version]
    manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()], 100_000)
    start = time.monotonic()
    with pytest.raises(WeightsError, match="did not meet the others"):
        any_rig.run(any_rig.engine.apply_weights(any_rig.update(any_rig.version + 1, manifest), 0.5))
    assert time.monotonic() - start < TIMEOUT_S / 2
    any_rig.run(any_rig.push(any_rig.version + 1, new_epoch=True))


def test_a_newer_update_does_not_wait_for_one_whose_sender_hangs(any_rig: Rig):
    rig = any_rig
    rig.leave()
    tensors = rig.versions[rig.version]
    manifest = plan_buckets([(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()], 100_000)
    version = rig.version + 1

    async def scenario() -> None:
        hanging = asyncio.create_task(rig.engine.apply_weights(rig.update(version, manifest), TIMEOUT_S))
        await asyncio.sleep(0.1)
        rig.engine.supersede()
        with pytest.raises(WeightsError, match=f"version {version} was superseded"):
            await hanging
        await rig.push(version + 1, new_epoch=True)

    start = time.monotonic()
    rig.run(scenario())
    assert time.monotonic() - start < TIMEOUT_S
    assert rig.version == version + 1
