"""The engine with real vLLM: tickets in, completions out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from prolong.actor.engines.vllm.engine import Engine
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.errors import ModelError, ProlongError
from prolong.common.types import FinishReason, float32_array, int32_array

from tests.support.engine_rig import EOS, Rig


def test_rollouts_of_a_ticket_differ_and_the_same_seed_gives_the_same_rollouts(tied_rig: Rig):
    once, again, other = (tied_rig.generate(seed=seed) for seed in (3, 3, 4))
    assert len({completion.token_ids for completion in once}) > 12
    assert [completion.token_ids for completion in once] == [completion.token_ids for completion in again]
    assert not {completion.token_ids for completion in once if completion.num_tokens > 3} & {
        completion.token_ids for completion in other
    }


def test_rollouts_come_out_the_moment_they_end_not_when_the_group_does(tied_rig: Rig):
    async def arrivals() -> list[tuple[int, int]]:
        seen = []
        async for _, completion in tied_rig.engine.generate(tied_rig.ticket(max_tokens=200)):
            seen.append((completion.num_tokens, tied_rig.engine._llm.get_num_unfinished_requests()))
        return seen

    lengths, running = zip(*tied_rig.run(arrivals()), strict=True)
    assert list(lengths) == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert running[0] >= 8
    assert list(running) == sorted(running, reverse=True)


def test_a_rollout_ends_with_the_stop_token_or_at_the_limit(tied_rig: Rig):
    completions = [c for seed in range(4) for c in tied_rig.generate(seed=seed, max_tokens=40)]
    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {FinishReason.stop, FinishReason.length}
    for completion in completions:
        ids = int32_array(completion.token_ids).tolist()
        assert EOS not in ids[:-1]
        assert (ids[-1] == EOS) == (completion.finish_reason is FinishReason.stop) or len(ids) == 40
        assert len(ids) == 40 or completion.finish_reason is FinishReason.stop
        assert len(float32_array(completion.behaviour_logprobs)) == len(ids)


def test_sampling_follows_the_models_distribution(tied_rig: Rig):
    """First tokens of 1,024 rollouts against the exact distribution: the noise of our sampler is neither biased nor shared."""
    completions = [c for seed in range(64) for c in tied_rig.generate(seed=seed, max_tokens=1)]
    first = np.array([int32_array(completion.token_ids)[0] for completion in completions])
    probabilities = {
        int(token): np.exp(float32_array(c.behaviour_logprobs)[0]) for token, c in zip(first, completions, strict=True)
    }
    for token, probability in probabilities.items():
        deviation = (np.mean(first == token) - probability) / np.sqrt(probability * (1 - probability) / len(first))
        assert abs(deviation) < 4.5, (token, probability)


def test_top_p_keeps_the_nucleus_and_renormalises_the_behaviour_logprobs(tied_rig: Rig):
    whole = [c for seed in range(8) for c in tied_rig.generate(seed=seed, max_tokens=1)]
    nucleus = [c for seed in range(8) for c in tied_rig.generate(seed=seed, max_tokens=1, top_p=0.5)]

    def distribution(completions) -> dict[int, float]:
        return {int(int32_array(c.token_ids)[0]): float(np.exp(float32_array(c.behaviour_logprobs)[0])) for c in completions}

    before, after = distribution(whole), distribution(nucleus)
    assert len(after) < len(before)
    scale = [after[token] / before[token] for token in after if token in before]
    assert scale
    assert np.allclose(scale, scale[0], rtol=1e-4)
    assert 1.0 < scale[0] <= 2.0 + 1e-4


def test_a_cancelled_ticket_leaves_nothing_running_and_others_go_on(tied_rig: Rig):
    async def scenario() -> int:
        doomed = asyncio.create_task(tied_rig.collect(tied_rig.ticket(max_tokens=200)))
        spared = asyncio.create_task(tied_rig.collect(tied_rig.ticket(max_tokens=60, seed=5)))
        await asyncio.sleep(0.05)
        doomed.cancel()
        completions = await spared
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert tied_rig.engine._llm.get_num_unfinished_requests() == 0
        return len(completions)

    assert tied_rig.run(scenario()) == 16


def test_a_ticket_that_does_not_fit_the_context_is_an_error_and_the_engine_lives(tied_rig: Rig):
    with pytest.raises(ProlongError, match=r"ticket \d+: vLLM failed"):
        tied_rig.generate(max_tokens=100_000, n=1, temperature=1.0, top_p=2.0)
    assert len(tied_rig.generate(n=2)) == 2


def test_a_model_that_is_not_there_is_a_model_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model\.path = .*nowhere"):
        asyncio.run(Engine.start(ModelConfig(path=str(tmp_path / "nowhere")), ActorConfig(), 0, [EOS]))
