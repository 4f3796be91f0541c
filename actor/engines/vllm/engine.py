"""The actor's engine: vLLM's AsyncLLM, seen as "ticket in, completions out" and "weights in".

    generate(ticket)      -> (index, Completion), each the moment it ends
    apply_weights(update) -> checksums; requests in flight survive and go on under the new weights

vLLM lives in this file, `scheduler.py` and `weight_receiver.py` (both run in its engine process) and nowhere else.
Settings and what they are worth: docs/decisions/003-actor-engine.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import warnings
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
import numpy as np

from ....common.config.sections import ActorConfig, Device, ModelConfig
from ....common.errors import ModelError, ProlongError, WeightsError
from ....common.messages import UpdateWeights
from ....common.types import FinishReason, Ticket, int32_array, rollout_seed
from ..completion import Completion
from .parent_watch import mark_actor
from .segments import decode_spans

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")
_KILLED = re.compile(r"core proc\(s\): \{(\}|.*: -\d)")  # by a signal, or vLLM looked before the kernel knew the exit code
_POLL_S = 0.002  # how long the engine process may wait for a broadcast between two steps


class VllmEngine:
    """One vLLM engine with weights of one policy version at a time. Lives in one event loop."""

    def __init__(self, llm: AsyncLLM, *, clear_kv: bool, stop_ids: Sequence[int]) -> None:
        self._llm = llm
        self._clear_kv = clear_kv
        self._stop_ids = list(stop_ids)
        self._versions: dict[int, int] = {}  # segment (resumes so far) -> policy version
        self._segment = 0
        self._applying = asyncio.Lock()
        self._superseded = False
        self._dead = asyncio.Event()  # the engine process ended
        self._watched: list[int] = []  # its pidfd; one of each engine process
        self.paused_s = 0.0  # spent between pause and resume, so far

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        """Build the engine with dummy weights: it generates only after `apply_weights`. Blocks the event loop for seconds.

        On a CPU the engine process is forked if this process has no other thread yet: seconds less.

        Raises ModelError if vLLM cannot load the model, ProlongError if the engine process is killed meanwhile.
        """
        _set_environment(model)
        mark_actor()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what vLLM's dependencies deprecate is not ours to mend
            from vllm.exceptions import VLLMError
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.engine.exceptions import EngineDeadError

            try:
                config = _engine_args(model, actor, seed).create_engine_config()
                if not _on_gpu(model):
                    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = _start_method()
                llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
                engine = cls(llm, clear_kv=actor.clear_kv, stop_ids=stop_ids)
                engine._watch()
                await engine._unless_dead(llm.collective_rpc("prolong_prepare"))
            except (VLLMError, ValueError, OSError, RuntimeError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                if isinstance(error, EngineDeadError) or _KILLED.search(reason):
                    raise ProlongError(f"vLLM's engine process was killed while it started: {reason}") from error
                raise ModelError(f"model.path = {model.path!r}: vLLM could not load it: {reason}") from error
        return engine

    @property
    def version(self) -> int:
        """The policy version that the engine holds; -1 before the first."""
        return self._versions.get(self._segment, -1)

    @property
    def num_unfinished(self) -> int:
        return self._llm.get_num_unfinished_requests()

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        """The ticket's rollouts as (index, completion), in the order in which they end. Cancelling aborts them.

        Rollout i samples with seed `rollout_seed(ticket.seed, i)`. Raises ProlongError if vLLM refuses the request or died.
        """
        assert self.version >= 0, "an engine without weights must not generate"
        from vllm.exceptions import VLLMError

        prompt = {"prompt_token_ids": int32_array(ticket.prompt.token_ids).tolist()}
        try:
            params = self._sampling_params(ticket)
            async for output in self._llm.generate(prompt, params, str(ticket.ordinal)):  # type: ignore[arg-type]
                for finished in output.outputs:
                    yield finished.index, self._completion(finished)
        except VLLMError as error:
            raise ProlongError(f"ticket {ticket.ordinal}: vLLM failed: {error or type(error).__name__}") from error

    def _sampling_params(self, ticket: Ticket) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=ticket.sampling.n,
            temperature=ticket.sampling.temperature,
            top_p=ticket.sampling.top_p,
            max_tokens=ticket.sampling.max_tokens,
            seed=rollout_seed(ticket.seed, 0),  # vLLM adds a rollout's index
            stop_token_ids=self._stop_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,  # with our scheduler: one output a rollout, when it ends
        )

    def _completion(self, output: CompletionOutput) -> Completion:
        token_ids = np.asarray(output.token_ids, dtype="<i4")
        logprobs = np.asarray(output.logprobs.logprobs, dtype="<f4")  # type: ignore[union-attr]
        if len(logprobs) != len(token_ids):
            raise ProlongError(f"vLLM gave {len(logprobs)} log-probabilities for {len(token_ids)} tokens")
        return Completion(
            token_ids=token_ids.tobytes(),
            behaviour_logprobs=logprobs.tobytes(),
            spans=decode_spans(str(output.stop_reason), self._versions, len(token_ids)),
            finish_reason=FinishReason(output.finish_reason),  # type: ignore[arg-type]
        )

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """Receive `update` beside generation, then pause, load, tag and resume. Returns the checksums of what was received.

        Raises WeightsError when it did not arrive: the engine then goes on with the weights it had. An error while loading
        leaves the engine paused and unusable, and one that died is gone: ProlongError.
        """
        async with self._applying:
            self._superseded = False
            return await self._unless_dead(self._apply(update, timeout_s))

    async def _apply(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        from vllm.exceptions import VLLMError

        checksums = await self._receive(update, timeout_s)
        core, paused = self._llm.engine_core, perf_counter()
        try:
            await core.pause_scheduler_async(mode="keep", clear_cache=self._clear_kv)
            await self._llm.collective_rpc("prolong_load", timeout=timeout_s)
            await self._llm.update_weight_version(str(update.version))
            self._segment += 1
            self._versions[self._segment] = update.version  # before the resume: outputs of it may come at once
            await core.resume_scheduler_async()
        except (VLLMError, RuntimeError) as error:  # RuntimeError: a worker's, as the engine process relays it
            raise ProlongError(f"version {update.version} arrived but vLLM could not load it: {error}") from error
        self.paused_s += perf_counter() - paused
        return checksums

    def supersede(self) -> None:
        """A newer update is at hand: stop waiting for the one that is being received (one that is being loaded goes on)."""
        self._superseded = True

    async def _receive(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        frame = msgspec.msgpack.encode(update)
        try:
            async with asyncio.timeout(2 * timeout_s + 1.0):  # the group's own deadlines come first: join, then each bucket
                await self._llm.collective_rpc("prolong_download", args=(frame, timeout_s))
                while True:
                    workers = await self._llm.collective_rpc("prolong_download_result", args=(_POLL_S,))
                    if workers[0] is not None:
                        checksums, error = workers[0]
                        break
                    if self._superseded:
                        raise WeightsError(f"version {update.version} was superseded before it arrived")
        except TimeoutError as late:
            raise WeightsError(f"version {update.version} did not arrive within {2 * timeout_s + 1.0:g} s") from late
        if error:
            raise WeightsError(error)
        return list(checksums)

    def _watch(self) -> None:
        """Have the kernel say when an engine process ends."""
        manager: Any = self._llm.engine_core.resources.engine_manager
        loop = asyncio.get_running_loop()
        for process in manager.processes if manager is not None else []:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                self._dead.set()
                continue
            self._watched.append(descriptor)
            loop.add_reader(descriptor, self._died)

    def _died(self) -> None:
        self._dead.set()
        self._unwatch()

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()

    async def _unless_dead(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of `call`: vLLM leaves calls pending for ever when the engine process dies. Raises ProlongError then."""
        calling, dying = asyncio.ensure_future(call), asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait([calling, dying], return_when=asyncio.FIRST_COMPLETED)
            if self._dead.is_set():
                raise ProlongError("vLLM's engine process ended in the middle of a call; the kernel's log may say why")
            return calling.result()
        finally:
            calling.cancel()
            dying.cancel()

    async def close(self) -> None:
        """End the engine process. Requests in flight are lost."""
        self._unwatch()
        self._llm.shutdown(timeout=1.0)
        self._llm.shutdown = lambda timeout=None: None  # its finalizer shuts down again, when the interpreter is half gone


def _start_method() -> str:
    """vLLM asks for "spawn" on a CPU, which imports everything once more. A child forked beside threads may wait for ever for
    their locks; most threads (torch's, ZeroMQ's) are none of Python's, so ask the kernel."""
    return "fork" if len(os.listdir("/proc/self/task")) == 1 else "spawn"


def _set_environment(model: ModelConfig) -> None:
    """What vLLM reads from the environment when it is imported, here and in its engine process."""
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    if Path(model.path).is_dir():
        settings["HF_HUB_OFFLINE"] = "1"
    if not _on_gpu(model):
        settings |= {
            "TORCHDYNAMO_DISABLE": "1",  # eager anyway; compiling the sampler costs 25 s at the first request
            "OMP_NUM_THREADS": "1",  # two threads on contended cores are several times slower than one
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # whoever starts us chooses the cores
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets the worker live in the engine process: two processes, not three
        }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _on_gpu(model: ModelConfig) -> bool:
    import torch

    return model.device is Device.cuda or (model.device is Device.auto and torch.cuda.is_available())


def _engine_args(model: ModelConfig, actor: ActorConfig, seed: int) -> Any:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    package = __name__.rpartition(".")[0]
    settings: dict[str, Any] = {
        "model": model.path,
        "dtype": model.dtype,
        "max_model_len": model.max_context,
        "max_num_seqs": actor.max_num_seqs,
        "seed": seed,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",  # of the tempered distribution
        "disable_log_stats": True,
        "tensor_parallel_size": actor.tensor_parallel,
        "weight_transfer_config": WeightTransferConfig(backend="prolong"),
        "worker_extension_cls": f"{package}.worker.WorkerExtension",
    }
    if _on_gpu(model):
        settings |= {
            "scheduler_cls": f"{package}.scheduler.FinalOnlyAsyncScheduler",
            "gpu_memory_utilization": actor.gpu_memory_utilization,
        }
    else:
        settings |= {
            "scheduler_cls": f"{package}.scheduler.FinalOnlyScheduler",
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(actor.kv_cache_gib * 2**30),
            "block_size": 32,  # 3 % faster than the default of 128, and shorter prompts are shared
            "distributed_executor_backend": "uni" if actor.tensor_parallel == 1 else "mp",
        }
    return AsyncEngineArgs(**settings)
