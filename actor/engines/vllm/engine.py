"""vLLM's AsyncLLM as an `Engine` (`../api.py`): tickets in, completions out, weights in.

    generate(ticket)      -> one vLLM request with n children; (index, Completion) of each as it ends
    apply_weights(update) -> three calls to `worker.py` in vLLM's process: download, its result, load

vLLM steps in a process of its own; this file runs in the actor's. It imports vLLM inside functions, after `settings.py` has set
the environment that vLLM reads at its import.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import warnings
from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from ....common.config.sections import ActorConfig, ModelConfig
from ....common.errors import ModelError, ProlongError, UserError, WeightsError
from ....common.messages import UpdateWeights
from ....common.temporary_folder import TemporaryFolder
from ....common.types import FinishReason, Ticket, int32_array, rollout_seed
from ..completion import NOTHING_MORE, Completion
from ..load import EngineLoad
from .engine_process import ProcessWatch
from .parent_watch import announce_parent
from .segments import INTERRUPT, decode_spans
from .settings import engine_config, runs_on_gpu, set_environment, start_method
from .socket_folder import socket_folder, sockets_in
from .start_failure import StartLog
from .stop_arguments import encode_stop

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

# by a signal, or vLLM looked before the kernel knew the exit code
_KILLED = re.compile(r"core proc\(s\): \{(\}|.*: -\d)")
# seconds between two looks at a download, each a call between two steps of the engine: at its beginning, and when it takes long
_POLL_S, _SLOW_POLL_S = 0.002, 0.05


class VllmEngine:
    """One vLLM engine with weights of one policy version at a time. Lives in one event loop; see `Engine`."""

    def __init__(self, llm: AsyncLLM, model: ModelConfig, *, clear_kv: bool, stop_ids: Sequence[int]) -> None:
        """`model`: whose tokenizer the texts that end a rollout are found with."""
        self._llm = llm
        self._path, self._max_context = model.path, model.max_context
        self._clear_kv = clear_kv
        self._stop_ids = list(stop_ids)
        self._versions: dict[int, int] = {}  # segment (resumes so far) -> policy version
        self._segment = 0
        self._applying = asyncio.Lock()
        self._superseded = False
        self._process = ProcessWatch()
        self._sockets: TemporaryFolder | None = None
        self._paused_s = 0.0
        self._load = EngineLoad()

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        """Build the engine with dummy weights. Blocks the event loop for seconds.

        On a CPU the engine process is forked if this process has no other thread yet, which is seconds faster.
        Raises UserError if vLLM is not installed, ModelError if it refuses the model or a setting, ProlongError if the engine
        did not start for another reason: the memory of a GPU, its driver, a process that was killed may be all right next time.
        """
        if importlib.util.find_spec("vllm") is None:
            raise UserError("actor.engine = vllm: vLLM is not installed here; install it, or set actor.engine=transformers")
        set_environment(model)
        model.settle_auto(on_gpu=runs_on_gpu(model))
        announce_parent()
        with warnings.catch_warnings():
            # deprecations in vLLM's dependencies, which we cannot fix
            warnings.simplefilter("ignore")
            config = engine_config(model, actor, seed)
            log, sockets = StartLog(), socket_folder()
            try:
                with sockets_in(sockets):
                    engine = await cls._started(config, model, actor, stop_ids)
                engine._sockets = sockets
                return engine
            except _start_errors() as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                cause = log.cause()
                if not cause and _was_killed(error, reason):
                    raise ProlongError(f"vLLM's engine process was killed while it started: {reason}") from error
                raise ProlongError(f"vLLM's engine did not start: {cause or reason}") from error

    @classmethod
    async def _started(cls, config: VllmConfig, model: ModelConfig, actor: ActorConfig, stop_ids: Sequence[int]) -> Self:
        from vllm.v1.engine.async_llm import AsyncLLM

        if config.device_config.device_type == "cpu":
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = start_method(gpu=False)
        llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        engine = cls(llm, model, clear_kv=actor.clear_kv, stop_ids=stop_ids)
        try:
            await engine._prepare(keep_base=bool(model.lora))
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _prepare(self, *, keep_base: bool) -> None:
        manager: Any = self._llm.engine_core.resources.engine_manager
        if manager is not None:
            self._process.start(process.pid for process in manager.processes)
        await self._process.unless_dead(self._llm.collective_rpc("prolong_prepare", args=(keep_base,)))

    @property
    def version(self) -> int:
        return self._versions.get(self._segment, -1)

    @property
    def paused_s(self) -> float:
        return self._paused_s

    @property
    def load(self) -> EngineLoad:
        """As of the last rollout that ended."""
        return self._load

    @property
    def num_unfinished(self) -> int:
        return self._llm.get_num_unfinished_requests()

    async def num_steps(self) -> int:
        """See `Engine`; of the worker that made the fewest."""
        return min(await self._process.unless_dead(self._llm.collective_rpc("prolong_num_steps")))

    # --- tickets ---

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        """See `Engine`. Raises ProlongError if vLLM refuses the request or died."""
        assert self.version >= 0, "an engine without weights must not generate"
        from vllm.exceptions import VLLMError

        try:
            if ticket.started:
                async for index, completion in self._continue(ticket):
                    yield index, completion
                return
            prompt = {"prompt_token_ids": int32_array(ticket.prompt.token_ids).tolist()}
            params = self._sampling_params(ticket)
            async for output in self._llm.generate(prompt, params, str(ticket.ordinal)):  # type: ignore[arg-type]
                for finished in output.outputs:
                    yield finished.index, self._completion(finished)
        except VLLMError as error:
            raise ProlongError(f"ticket {ticket.ordinal}: vLLM failed: {error or type(error).__name__}") from error

    async def _continue(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        """The unfinished rollouts of a ticket that was handed over: a request for each, with its tokens behind the prompt."""
        begun = ticket.unfinished()
        tasks = [asyncio.create_task(self._continued(ticket, index, bytes(ids))) for index, ids in begun.items()]
        try:
            for ended in asyncio.as_completed(tasks):
                yield await ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _continued(self, ticket: Ticket, index: int, begun: bytes) -> tuple[int, Completion]:
        ids = int32_array(ticket.prompt.token_ids + begun).tolist()
        num_begun = len(begun) // 4
        if len(ids) >= self._max_context or num_begun >= ticket.sampling.max_tokens:
            return index, NOTHING_MORE
        params = self._sampling_params(ticket, index, num_begun)
        outputs = self._llm.generate({"prompt_token_ids": ids}, params, f"{ticket.ordinal}/{index}")  # type: ignore[arg-type]
        (completion,) = [self._completion(finished) async for output in outputs for finished in output.outputs]
        return index, completion

    async def interrupt(self) -> None:
        await self._llm.engine_core.abort_requests_async([INTERRUPT])

    def _sampling_params(self, ticket: Ticket, index: int | None = None, num_begun: int = 0) -> SamplingParams:
        """Of a whole ticket, or of its rollout `index` with `num_begun` tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=ticket.sampling.n if index is None else 1,
            temperature=ticket.sampling.temperature,
            top_p=ticket.sampling.top_p,
            top_k=ticket.sampling.top_k,
            min_p=ticket.sampling.min_p,
            extra_args=encode_stop(self._path, ticket.sampling.stop, num_begun),
            max_tokens=ticket.sampling.max_tokens - num_begun,
            seed=rollout_seed(ticket.seed, index or 0),  # vLLM adds a rollout's index where n > 1
            stop_token_ids=self._stop_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            # with our scheduler: one output per rollout, when it ends
            output_kind=RequestOutputKind.CUMULATIVE,
        )

    def _completion(self, output: CompletionOutput) -> Completion:
        token_ids = np.asarray(output.token_ids, dtype="<i4")
        logprobs = np.asarray(output.logprobs.logprobs, dtype="<f4")  # type: ignore[union-attr]
        if len(logprobs) != len(token_ids):
            raise ProlongError(f"vLLM gave {len(logprobs)} log-probabilities for {len(token_ids)} tokens")
        segments, _, load = str(output.stop_reason).partition(";")
        self._load = EngineLoad.decode(load)
        return Completion(
            token_ids=token_ids.tobytes(),
            behaviour_logprobs=logprobs.tobytes(),
            spans=decode_spans(segments, self._versions, len(token_ids)),
            finish_reason=FinishReason(output.finish_reason),  # type: ignore[arg-type]
        )

    async def layer_outputs(self, ticket: Ticket) -> dict[str, np.ndarray]:
        """What each stage of the model computes for the ticket's prompt: stage -> [tokens, features] (layer_outputs.py).

        For examinations, while nothing else is generated. Only without CUDA graphs: those run no hooks.
        """
        await self._llm.collective_rpc("prolong_watch_layers")
        async for _ in self.generate(ticket):
            pass
        stages = (await self._llm.collective_rpc("prolong_take_layers"))[0]
        return {stage: np.frombuffer(values, "<f4").reshape(shape) for stage, shape, values in stages}

    # --- weights ---

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """See `Engine`. An error while loading leaves vLLM paused."""
        async with self._applying:
            self._superseded = False
            return await self._process.unless_dead(self._apply(update, timeout_s))

    async def _apply(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        checksums = await self._receive(update, timeout_s)
        core, paused = self._llm.engine_core, perf_counter()
        try:
            await core.pause_scheduler_async(mode="keep", clear_cache=self._clear_kv)
            workers = await self._llm.collective_rpc("prolong_load", timeout=timeout_s)
            unloaded = sorted({name for names in workers for name in names})
            if unloaded:
                raise ModelError(
                    f"version {update.version}: vLLM took no weights for {len(unloaded)} of its parameters ({unloaded[:3]}), "
                    "so that it would sample with random ones: it knows this model under other names than transformers; use "
                    "another model, or actor.engine=transformers"
                )
            await self._llm.update_weight_version(str(update.version))
            # before the resume, because outputs of the new segment may arrive at once
            self._segment += 1
            self._versions[self._segment] = update.version
            await core.resume_scheduler_async()
        except ModelError:
            raise
        # a worker's error arrives as a RuntimeError, or as a plain Exception from the engine process
        except Exception as error:
            raise ProlongError(f"version {update.version} arrived but vLLM could not load it: {error}") from error
        self._paused_s += perf_counter() - paused
        return checksums

    def supersede(self) -> None:
        self._superseded = True

    async def _receive(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """Wait for the download in vLLM's process; returns checksums. Raises WeightsError."""
        frame = msgspec.msgpack.encode(update)
        # the download's own deadlines come first: the join, then each bucket
        deadline_s, start = 2 * timeout_s + 1.0, perf_counter()
        try:
            async with asyncio.timeout(deadline_s):
                await self._llm.collective_rpc("prolong_download", args=(frame, timeout_s))
                while True:
                    # the engine waits for nothing meanwhile: it generates
                    workers = await self._llm.collective_rpc("prolong_download_result", args=(0.0,))
                    if workers[0] is not None:
                        checksums, error = workers[0]
                        break
                    if self._superseded:
                        raise WeightsError(f"version {update.version} was superseded before it arrived")
                    await asyncio.sleep(min(_SLOW_POLL_S, max(_POLL_S, 0.1 * (perf_counter() - start))))
        except TimeoutError as late:
            raise WeightsError(f"version {update.version} did not arrive within {deadline_s:g} s") from late
        if error:
            raise WeightsError(error)
        return list(checksums)

    async def close(self) -> None:
        """End the engine process. Requests in flight are lost."""
        self._process.close()
        self._llm.shutdown(timeout=1.0)
        # its finalizer would shut down again, when the interpreter is half gone
        self._llm.shutdown = lambda timeout=None: None
        if self._sockets is not None:
            self._sockets.remove()


def _start_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises when its engine does not start."""
    from vllm.exceptions import VLLMError

    return VLLMError, ValueError, OSError, RuntimeError


def _was_killed(error: Exception, reason: str) -> bool:
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(error, EngineDeadError) or _KILLED.search(reason) is not None
