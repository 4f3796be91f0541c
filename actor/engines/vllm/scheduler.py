"""vLLM's scheduler with one output per rollout instead of one per token. Runs in vLLM's engine process.

Stock vLLM encodes, sends, decodes and books every token of every request on its way from the engine process to ours. A rollout
is of use only once it ended, so `update_from_output` holds tokens and log-probabilities back until then: on one core this is
worth a third of the actor's speed (docs/decisions/003-actor-engine.md).

It also notes which tokens were sampled between which two pauses: weights change only inside a pause, so the number of resumes
so far (`segment`) names the weights of every token. The note travels as the `stop_reason` of the finished completion
("SEGMENT:FIRST_TOKEN,...", see segments.py), the one free field that vLLM hands through. Behind it stands what the engine had
to do so far (`../load.py`): the scheduler alone knows how full the cache is, and who waits.

A request may also end with a text (`Sampling.stop`): `check_stop` is where vLLM looks at each sampled token, before it drops
those that were sampled behind the end, and is extended here. And all requests may be interrupted, with what they have.

Consumes: model outputs of a step. Produces: one EngineCoreOutput per finished or interrupted request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched import scheduler as stock
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request, RequestStatus

from ..load import EngineLoad
from .segments import INTERRUPT, encode_segments
from .stop_arguments import decode_stop

_stock_check = stock.check_stop  # type: ignore[attr-defined]


def _check_stop(request: Request, max_model_len: int) -> bool:
    """Whether the request ends with its newest token: by a stop token, a limit, or a text."""
    stopped = _stock_check(request, max_model_len)
    stop = decode_stop(request.sampling_params.extra_args) if request.sampling_params is not None else None
    if stop is None:
        return stopped
    texts, num_begun = stop
    newest = max(request.num_prompt_tokens - num_begun, request.num_tokens - texts.window)
    if not texts.complete(request.all_token_ids[newest:]):
        return stopped
    request.status = RequestStatus.FINISHED_STOPPED
    return True


stock.check_stop = _check_stop  # type: ignore[attr-defined]


class _Held:
    """The tokens that a running request has sampled so far."""

    __slots__ = ("logprobs", "segments", "token_ids")

    def __init__(self, segment: int) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[LogprobsLists] = []
        self.segments: list[tuple[int, int]] = [(segment, 0)]  # (segment, its first token)


class FinalOnly:
    """Mixin over a vLLM scheduler: outputs leave the engine when their request is finished."""

    # the scheduler's
    waiting: RequestQueue
    kv_cache_manager: KVCacheManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[str, _Held] = {}
        self._load = EngineLoad()
        self._segment = 0  # resumes so far
        # requests that were interrupted since the last step: (vLLM's client, output)
        self._interrupted: list[tuple[int, EngineCoreOutput]] = []

    def set_pause_state(self, pause_state: PauseState) -> None:
        super().set_pause_state(pause_state)  # type: ignore[misc]
        if pause_state is PauseState.UNPAUSED:
            self._segment += 1
            for held in self._held.values():
                held.segments.append((self._segment, len(held.token_ids)))

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """Drop the requests; or, asked for INTERRUPT, end all of them: the next step's outputs hold what they have."""
        interrupts = request_ids is not None and INTERRUPT in request_ids
        aborted = super().finish_requests(None if interrupts else request_ids, finished_status)  # type: ignore[misc]
        for request in aborted:
            held = self._held.pop(request.request_id, None)
            if interrupts:
                output = EngineCoreOutput(request.request_id, [], finish_reason=request.get_finished_reason())
                self._interrupted.append((request.client_index, self._whole(output, held or _Held(self._segment))))
        return aborted

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        batches = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        if scheduler_output.total_num_scheduled_tokens:
            self._note_step(batches, len(scheduler_output.num_scheduled_tokens))
        for batch in batches.values():
            batch.outputs = [output for output in batch.outputs if self._is_final(output)]
        for client, output in self._interrupted:
            batches.setdefault(client, EngineCoreOutputs()).outputs.append(output)
        self._interrupted.clear()
        return {
            client: batch
            for client, batch in batches.items()
            if batch.outputs or batch.finished_requests or batch.scheduler_stats is not None
        }

    def _note_step(self, batches: Mapping[int, EngineCoreOutputs], running: int) -> None:
        tokens = sum(len(output.new_token_ids) for batch in batches.values() for output in batch.outputs)
        self._load.step(tokens, running, len(self.waiting), self.kv_cache_manager.usage)

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        # in a pause all are: their keys and values are computed anew under new weights
        self._load.preemptions += self.pause_state is PauseState.UNPAUSED  # type: ignore[attr-defined]
        super()._preempt_request(request, timestamp, drop_stale_output)  # type: ignore[misc]

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
        self._whole(output, held)
        return True

    def _whole(self, output: EngineCoreOutput, held: _Held) -> EngineCoreOutput:
        """`output` with everything that was held for its request."""
        output.new_token_ids = held.token_ids
        output.stop_reason = f"{encode_segments(held.segments)};{self._load.encode()}"
        if held.logprobs:
            ids, logprobs, ranks, _ = zip(*held.logprobs, strict=True)
            output.new_logprobs = LogprobsLists(np.concatenate(ids), np.concatenate(logprobs), np.concatenate(ranks))
        return output


class GpuScheduler(FinalOnly, AsyncScheduler):
    """Schedules a step while the one before is computed. A CPU has `cpu/scheduler.py`."""


class StepScheduler(FinalOnly, Scheduler):
    """Schedules a step when the one before has ended, where vLLM cannot work ahead (suffix drafts, for one)."""
