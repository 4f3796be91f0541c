"""Our scheduler, without an engine: it schedules into a cache that is only counted, and gets tokens that name their place."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from prolong.actor.engines.load import EngineLoad
from prolong.actor.engines.vllm import settings
from prolong.actor.engines.vllm.segments import decode_spans
from prolong.actor.engines.vllm.stop_arguments import encode_stop
from prolong.common.config.choices import Device
from prolong.common.config.sections import ActorConfig, ModelConfig
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import VersionSpan

from tests.support.tiny_model import make_tiny_model

PROMPT = [3, 4, 12, 5, 16]
BLOCK = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """vLLM's configuration of an engine on a CPU. It sets variables, and imports what warns."""
    before = dict(os.environ)
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ModelConfig(path=str(folder), max_context=256, device=Device.cpu, dtype="float32")
        yield settings.engine_config(model, ActorConfig(max_num_seqs=8, engine_args={"block_size": BLOCK}), 0)
    os.environ.clear()
    os.environ.update(before)


class Engine:
    """A GPU's engine core: two steps in flight, a pause at the end of both."""

    def __init__(self, config: Any, *, ahead: bool, blocks: int = 200) -> None:
        from prolong.actor.engines.vllm.scheduler import GpuScheduler, StepScheduler
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
        cache = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        config.cache_config.num_gpu_blocks = blocks
        kind: Any = GpuScheduler if ahead else StepScheduler
        self.scheduler: Any = kind(config, cache, StructuredOutputManager(config), BLOCK)
        self._depth = 2 if ahead else 1
        self._in_flight: deque[tuple[Any, list[tuple[str, int]]]] = deque()
        self.finished: dict[str, list[Any]] = {}

    def add(self, name: str, max_tokens: int, **sampling: Any) -> None:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=max_tokens, logprobs=0, detokenize=False, **sampling)
        self.scheduler.add_request(Request(name, list(PROMPT), params, None, block_hasher=self._hasher))

    def steps(self, number: int) -> None:
        for _ in range(number):
            scheduled = self.scheduler.schedule()
            if scheduled.total_num_scheduled_tokens or not self._in_flight:
                sampled = [
                    (name, self.scheduler.requests[name].num_computed_tokens)
                    for name in scheduled.num_scheduled_tokens
                    if not self.scheduler.requests[name].is_prefill_chunk
                ]
                self._in_flight.append((scheduled, sampled))
            if len(self._in_flight) == self._depth or not scheduled.total_num_scheduled_tokens:
                self.settle()

    def settle(self) -> None:
        """The oldest step in flight ends: each of its rollouts has sampled the number of its place."""
        from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

        scheduled, sampled = self._in_flight.popleft()
        places = dict(sampled)
        names = list(scheduled.num_scheduled_tokens)
        tokens = [[places[name]] if name in places else [] for name in names]
        values = np.array([[places.get(name, 0)] for name in names], dtype=np.int32).reshape(len(names), 1)
        logprobs = LogprobsLists(values, -values.astype(np.float32), np.zeros(len(names), dtype=np.int32))
        output = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, tokens, logprobs)
        for batch in self.scheduler.update_from_output(scheduled, output).values():
            for each in batch.outputs:
                self.finished.setdefault(each.request_id, []).append(each)

    def update_weights(self) -> None:
        """Pause, keep the requests, recompute their keys and values under the new weights."""
        from vllm.v1.core.sched.interface import PauseState

        self.scheduler.set_pause_state(PauseState.PAUSED_ALL)
        while self._in_flight:
            self.settle()
        assert self.scheduler.reset_prefix_cache(reset_running_requests=True)
        self.scheduler.set_pause_state(PauseState.UNPAUSED)

    def finish(self) -> None:
        """Go on until every request has ended."""
        for _ in range(2000):
            if not self.scheduler.requests and not self._in_flight:
                break
            self.steps(1)
        assert not self.scheduler.requests
        assert not self.scheduler._held
        assert self.scheduler.kv_cache_manager.usage == 0

    def places(self, name: str) -> list[int]:
        """The tokens of a request that ended, which name their places; its one output holds all of them, with logprobs."""
        (output,) = self.finished[name]
        logprobs = output.new_logprobs
        assert logprobs.logprob_token_ids[:, 0].tolist() == output.new_token_ids
        assert (-logprobs.logprobs[:, 0]).tolist() == output.new_token_ids
        assert len(logprobs.sampled_token_ranks) == len(output.new_token_ids)
        return output.new_token_ids

    def spans(self, name: str) -> list[VersionSpan]:
        (output,) = self.finished[name]
        segments, _, _ = output.stop_reason.partition(";")
        return decode_spans(segments, {i: i for i in range(10)}, len(output.new_token_ids))


def whole(max_tokens: int) -> list[int]:
    return list(range(len(PROMPT), len(PROMPT) + max_tokens))


@pytest.mark.parametrize("ahead", [True, False])
def test_each_rollout_is_one_output_with_a_span_for_each_of_the_weights_that_sampled_it(config: Any, ahead: bool) -> None:
    engine = Engine(config, ahead=ahead)
    lengths = {"short": 4, "middle": 20, "long": 60}
    for name, max_tokens in lengths.items():
        engine.add(name, max_tokens)
    engine.steps(12)
    engine.update_weights()
    first = {name: len(held.token_ids) for name, held in engine.scheduler._held.items()}
    engine.steps(9)
    engine.update_weights()
    engine.update_weights()
    second = {name: len(held.token_ids) for name, held in engine.scheduler._held.items()}
    engine.finish()
    assert {name: engine.places(name) for name in lengths} == {name: whole(length) for name, length in lengths.items()}
    assert engine.spans("short") == [VersionSpan(version=0, start=0, end=4)]
    assert 0 < first["long"] < second["long"] < 60
    assert engine.spans("long") == [
        VersionSpan(version=0, start=0, end=first["long"]),
        VersionSpan(version=1, start=first["long"], end=second["long"]),
        VersionSpan(version=3, start=second["long"], end=60),
    ]
    assert engine.spans("middle")[0] == VersionSpan(version=0, start=0, end=first["middle"])


@pytest.mark.parametrize("ahead", [True, False])
def test_a_rollout_that_loses_its_place_in_the_cache_goes_on_without_a_gap_or_a_repeat(config: Any, ahead: bool) -> None:
    engine = Engine(config, ahead=ahead, blocks=10)
    names = [f"rollout {i}" for i in range(4)]
    for name in names:
        engine.add(name, 60)
    engine.steps(30)
    engine.update_weights()
    counted = engine.scheduler._load.preemptions
    engine.finish()
    load = engine.scheduler._load
    assert load.preemptions > counted or counted > 0
    assert [engine.places(name) for name in names] == [whole(60)] * 4
    assert load.tokens == 4 * 60
    assert 0.3 < load.kv_use / load.steps <= 1
    assert load.waiting > 0
    last = max(
        (engine.finished[name][0].stop_reason.partition(";")[2] for name in names),
        key=lambda text: EngineLoad.decode(text).steps,
    )
    assert EngineLoad.decode(last) == load


def test_preemptions_of_a_weight_update_are_not_counted(config: Any) -> None:
    engine = Engine(config, ahead=True)
    engine.add("a", 30)
    engine.steps(10)
    engine.update_weights()
    engine.finish()
    assert engine.scheduler._load.preemptions == 0


def test_a_rollout_that_is_aborted_in_flight_leaves_nothing(config: Any) -> None:
    from vllm.v1.request import RequestStatus

    engine = Engine(config, ahead=True)
    engine.add("kept", 20)
    engine.add("dropped", 20)
    engine.steps(6)
    engine.scheduler.finish_requests(["dropped"], RequestStatus.FINISHED_ABORTED)
    engine.finish()
    assert list(engine.finished) == ["kept"]
    assert engine.places("kept") == whole(20)


@pytest.mark.parametrize("ahead", [True, False])
def test_rollouts_that_are_interrupted_come_out_with_what_they_have(config: Any, ahead: bool) -> None:
    from prolong.actor.engines.vllm.segments import INTERRUPT
    from vllm.v1.request import RequestStatus

    engine = Engine(config, ahead=ahead)
    engine.add("ended", 3)
    engine.steps(8)
    for name in ("running", "younger"):
        engine.add(name, 40)
    engine.steps(6)
    engine.update_weights()
    engine.steps(4)
    engine.add("waiting", 40)
    held = {name: len(held.token_ids) for name, held in engine.scheduler._held.items()}
    engine.scheduler.finish_requests([INTERRUPT], RequestStatus.FINISHED_ABORTED)
    engine.scheduler.finish_requests([INTERRUPT], RequestStatus.FINISHED_ABORTED)  # vLLM hands each abort over twice
    engine.finish()
    engine.steps(1)
    assert set(engine.finished) == {"ended", "running", "younger", "waiting"}
    assert engine.places("ended") == whole(3)
    for name in ("running", "younger"):
        assert engine.places(name) == whole(held[name])
        assert engine.finished[name][0].finish_reason.name == "ABORT"
        assert [span.version for span in engine.spans(name)] == [0, 1]
    (waiting,) = engine.finished["waiting"]
    assert (waiting.new_token_ids, waiting.new_logprobs, waiting.finish_reason.name) == ([], None, "ABORT")


def test_a_text_that_begins_in_what_another_actor_sampled_ends_a_rollout(config: Any) -> None:
    path = config.model_config.model
    text = Tokenizer.load(path).decode([PROMPT[-1], len(PROMPT)])
    engine = Engine(config, ahead=True)
    engine.add("goes on", 40, extra_args=encode_stop(path, (text,), 1))
    engine.add("of a prompt", 4, extra_args=encode_stop(path, (text,)))
    engine.finish()
    assert engine.places("goes on") == [len(PROMPT)]
    assert engine.places("of a prompt") == whole(4)


def test_a_text_ends_a_rollout_and_what_was_scheduled_behind_it_is_dropped(config: Any) -> None:
    path = config.model_config.model
    text = Tokenizer.load(path).decode([12, 13])
    engine = Engine(config, ahead=True)
    engine.add("a", 40, extra_args=encode_stop(path, (text,)))
    engine.finish()
    assert engine.places("a") == list(range(len(PROMPT), 14))
    assert engine.finished["a"][0].finish_reason.name == "STOP"
