"""vLLM's scheduler, speaking once per rollout instead of once per token.

Stock vLLM encodes, sends, decodes and books every token of every request on its way from the engine process to ours. A rollout
is of use only when it ended, so `update_from_output` holds tokens and log-probabilities back until then: on one core this is
worth a third of the actor's speed (docs/decisions/003-actor-engine.md).

It also notes which tokens were sampled between which two pauses: weights change only inside a pause, so the number of resumes
so far (`segment`) names the weights of every token. `engine.py` turns segments into policy versions. The note travels as the
`stop_reason` of the finished completion, "SEGMENT:FIRST_TOKEN,...": the one free field that vLLM hands through.

Consumes: model outputs of a step. Produces: one EngineCoreOutput per finished request. Runs in vLLM's engine process.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request, RequestStatus

from .segments import encode_segments


class _Held:
    """What a running request sampled so far."""

    __slots__ = ("logprobs", "segments", "token_ids")

    def __init__(self, segment: int) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[LogprobsLists] = []
        self.segments: list[tuple[int, int]] = [(segment, 0)]  # (segment, its first token)


class _FinalOnly:
    """Mixin over a vLLM scheduler: outputs leave the engine when their request is finished."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[str, _Held] = {}
        self._segment = 0  # resumes so far

    def set_pause_state(self, pause_state: PauseState) -> None:
        super().set_pause_state(pause_state)  # type: ignore[misc]
        if pause_state is PauseState.UNPAUSED:
            self._segment += 1
            for held in self._held.values():
                held.segments.append((self._segment, len(held.token_ids)))

    def finish_requests(self, request_ids, finished_status):
        aborted = super().finish_requests(request_ids, finished_status)  # type: ignore[misc]
        for request in aborted:
            self._held.pop(request.request_id, None)
        return aborted

    def update_from_output(self, scheduler_output, model_runner_output):
        batches = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        for batch in batches.values():
            batch.outputs = [output for output in batch.outputs if self._is_final(output)]
        return {
            client: batch
            for client, batch in batches.items()
            if batch.outputs or batch.finished_requests or batch.scheduler_stats is not None
        }

    def _is_final(self, output: EngineCoreOutput) -> bool:
        """Hold `output` back, or make it carry everything that was held for its request."""
        held = self._held.get(output.request_id)
        if held is None:
            held = self._held[output.request_id] = _Held(self._segment)
        held.token_ids += output.new_token_ids
        if output.new_logprobs is not None:
            held.logprobs.append(output.new_logprobs)
        if output.finish_reason is None:
            return False
        del self._held[output.request_id]
        output.new_token_ids = held.token_ids
        output.stop_reason = encode_segments(held.segments)
        if held.logprobs:
            ids, logprobs, ranks, _ = zip(*held.logprobs, strict=True)
            output.new_logprobs = LogprobsLists(np.concatenate(ids), np.concatenate(logprobs), np.concatenate(ranks))
        return True


class FinalOnlyScheduler(_FinalOnly, Scheduler):
    """For engines without asynchronous scheduling (CPU).

    A decoding request needs a new KV block once in `block_size` steps; asking for it in the others, the longest call chain of
    `schedule`, is 7 % of a tiny model's step, and is left out where one group of full-attention layers makes that plain.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        groups = self.kv_cache_config.kv_cache_groups
        if len(groups) == 1 and type(groups[0].kv_cache_spec) is FullAttentionSpec and self.num_lookahead_tokens == 0:
            self.kv_cache_manager.allocate_slots = _lazy(self.kv_cache_manager, groups[0].kv_cache_spec.block_size)


def _lazy(manager: KVCacheManager, block_size: int) -> Callable[..., KVCacheBlocks | None]:
    """`allocate_slots` that asks only when the token starts a block, or completes one (which may then be cached)."""
    ask, nothing = manager.allocate_slots, manager.empty_kv_cache_blocks

    def allocate_slots(request: Request, num_new_tokens: int, *args, **kwargs) -> KVCacheBlocks | None:
        inside = 0 < request.num_computed_tokens % block_size < block_size - 1
        if num_new_tokens == 1 and inside and request.status is RequestStatus.RUNNING:
            return nothing
        return ask(request, num_new_tokens, *args, **kwargs)

    return allocate_slots


class FinalOnlyAsyncScheduler(_FinalOnly, AsyncScheduler):
    """For engines with asynchronous scheduling (GPU)."""
