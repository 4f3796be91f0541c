"""An engine without vLLM: a transformers model that generates in a thread of the actor's process.

    generate(ticket)      -> rows for the thread; (index, Completion) of each as it ends
    apply_weights(update) -> downloaded by another thread while generation goes on, loaded between two tokens

It starts in a moment, on a CPU or one GPU, and obeys the same law as the vLLM engine (`../api.py`). What it costs in speed:
docs/decisions/007-second-engine.md.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Self, TypeVar

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from ....common.adapters import is_adapter_update
from ....common.base_weights import BaseWeights, no_base
from ....common.config.sections import ActorConfig, ModelConfig
from ....common.errors import ModelError, ProlongError, WeightsError
from ....common.messages import UpdateWeights
from ....common.models import DTYPES, load_model, published_tensors, resolve_device
from ....common.types import FinishReason, Ticket, int32_array, rollout_seed
from ....common.weights.buckets import bucket_views
from ...weight_download import WeightDownloader
from ..completion import Completion, version_spans
from ..layer_outputs import LayerOutputs
from ..load import EngineLoad
from ..stop_strings import StopStrings, stop_strings
from .batch import Row, RunningBatch
from .head import widen_head
from .thread import GenerationThread

T = TypeVar("T")
# layers whose state is keys and values of every token
CACHED_LAYERS = {"full_attention", "sliding_attention"}
_POLL_S = 0.002  # between two looks at a download


class TransformersEngine:
    """One transformers model with weights of one policy version at a time. Lives in one event loop; see `Engine`."""

    def __init__(self, policy: PreTrainedModel, model: ModelConfig, actor: ActorConfig, stop_ids: Sequence[int]) -> None:
        """Starts nothing; `start` does."""
        self._policy, self._device = policy, policy.device
        self._path, self._max_context = model.path, model.max_context
        # what updates of adapters are merged with
        self._base = BaseWeights.of(model.path, policy, self._device) if model.lora else None
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, asyncio.Queue[Row | ProlongError]] = {}
        self._stream_numbers = itertools.count()
        self._thread = GenerationThread(
            RunningBatch(policy, stop_ids),
            dict(published_tensors(policy)),
            max_num_seqs=actor.max_num_seqs,
            clear_kv=actor.clear_kv,
            on_finished=lambda rows: self._tell(self._finished, rows),
            on_death=lambda error: self._tell(self._died, error),
        )
        self._downloads = WeightDownloader(self._device)
        self._applying = asyncio.Lock()
        self._superseded = False
        self._loading: Future[float] | None = None  # the last load
        self._death: ProlongError | None = None
        self.version = -1
        self.paused_s = 0.0

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        """Load the model and start the thread. `seed` is not used: all noise comes from the tickets. Raises ModelError."""
        device = resolve_device(model.device)
        model.settle_auto(on_gpu=device.type == "cuda")
        policy = load_model(model, dtype=DTYPES[model.dtype], attention="sdpa")
        text = policy.config.get_text_config(decoder=True)
        kinds = set(getattr(text, "layer_types", None) or CACHED_LAYERS)
        if not kinds <= CACHED_LAYERS:
            raise ModelError(
                f"model.path = {model.path!r}: actor.engine=transformers cannot run layers of {sorted(kinds - CACHED_LAYERS)}; "
                "use actor.engine=vllm"
            )
        widen_head(policy)
        engine = cls(policy.to(device), model, actor, stop_ids)  # type: ignore[arg-type]
        engine._thread.start()
        return engine

    @property
    def load(self) -> EngineLoad:
        return self._thread.engine_load

    @property
    def num_unfinished(self) -> int:
        return self._thread.num_unfinished

    async def num_steps(self) -> int:
        return int(self._thread.engine_load.steps)

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        assert self.version >= 0, "an engine without weights must not generate"
        texts = ticket.sampling.stop
        # the tokenizer is read once, which may take a second
        stop = await asyncio.to_thread(stop_strings, self._path, texts) if texts else None
        stream = next(self._stream_numbers)
        rows = self._rows(ticket, stream, stop)
        self._raise_if_dead()
        inbox = self._streams[stream] = asyncio.Queue()
        self._thread.submit([row for row in rows if row.finish_reason is None])
        self._finished([row for row in rows if row.finish_reason is not None])
        left = len(rows)
        try:
            while left:
                item = await inbox.get()
                if isinstance(item, ProlongError):
                    raise item
                left -= 1
                yield item.index, _completion(item)
        finally:
            del self._streams[stream]
            if left:
                self._thread.abort(stream)

    def _rows(self, ticket: Ticket, stream: int, stop: StopStrings | None) -> list[Row]:
        """The ticket's rollouts before their next token. Raises ProlongError for a ticket that cannot be generated."""
        sampling, prompt = ticket.sampling, int32_array(ticket.prompt.token_ids).tolist()
        room = self._max_context - len(prompt)
        if not prompt or room < 1:
            raise ProlongError(
                f"ticket {ticket.ordinal}: a prompt of {len(prompt)} tokens; expected 1 to {self._max_context - 1}, "
                f"because model.max_context = {self._max_context}"
            )
        counts = sampling.n >= 1 and sampling.max_tokens >= 1 and sampling.top_k >= 0
        if not counts or sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or not 0 <= sampling.min_p < 1:
            raise ProlongError(
                f"ticket {ticket.ordinal}: {sampling}; expected n >= 1, max_tokens >= 1, temperature >= 0, 0 < top_p <= 1, "
                "top_k >= 0, 0 <= min_p < 1"
            )
        if sampling.temperature == 0 and sampling.n != 1:
            raise ProlongError(f"ticket {ticket.ordinal}: n must be 1 when sampling is greedy, got {sampling.n}")
        max_tokens = min(sampling.max_tokens, room)
        return [
            Row(
                stream=stream,
                index=i,
                seed=rollout_seed(ticket.seed, i),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                stop=stop,
                max_tokens=max_tokens,
                prompt=prompt,
                token_ids=int32_array(begun).tolist(),
                finish_reason=None if len(begun) < 4 * max_tokens else FinishReason.length,
            )
            for i, begun in ticket.unfinished().items()
        ]

    async def interrupt(self) -> None:
        self._thread.interrupt()

    async def layer_outputs(self, ticket: Ticket) -> dict[str, np.ndarray]:
        """What each stage of the model computes for the ticket's prompt: stage -> [tokens, features] (layer_outputs.py).

        For examinations, while nothing else is generated.
        """
        text = self._policy.config.get_text_config(decoder=True)
        watch = LayerOutputs(self._policy, text.num_hidden_layers, text.hidden_size)
        async for _ in self.generate(ticket):
            pass
        return {stage: value.numpy() for stage, value in watch.take().items()}

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        async with self._applying:
            self._superseded = False
            self._raise_if_dead()
            checksums = await self._receive(update, timeout_s)
            self._loading = self._thread.load(await asyncio.to_thread(self._take_weights, update), update.version)
            try:
                self.paused_s += await asyncio.wrap_future(self._loading)
            except ProlongError as error:
                raise ProlongError(f"version {update.version} arrived but cannot be loaded: {error}") from error
            self.version = update.version
            return checksums

    async def _receive(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        """Wait for the download, which has deadlines of its own; returns checksums. Raises WeightsError."""
        self._downloads.start(update, timeout_s)
        while (result := self._downloads.result(0.0)) is None:
            if self._superseded:
                raise WeightsError(f"version {update.version} was superseded before it arrived")
            await asyncio.sleep(_POLL_S)
        if result.error:
            raise WeightsError(result.error)
        return result.checksums

    def _take_weights(self, update: UpdateWeights) -> dict[str, Tensor]:
        """All weights by name: views into the staging memory, or what adapters make of the base. Raises: ModelError."""
        staged = {
            name: view
            for bucket, flat in zip(update.manifest.buckets, self._downloads.take_buckets(), strict=True)
            for name, view in bucket_views(bucket, flat)
        }
        if not is_adapter_update(staged):
            return staged
        if self._base is None:
            raise no_base()
        return dict(self._base.merged(staged))

    def supersede(self) -> None:
        self._superseded = True

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.close)
        self._downloads.close()

    # --- what the generation thread reports, in the event loop ---

    def _tell(self, receive: Callable[[T], None], value: T) -> None:
        """Called in the generation thread."""
        self._loop.call_soon_threadsafe(receive, value)

    def _finished(self, rows: list[Row]) -> None:
        for row in rows:
            if row.stream in self._streams:
                self._streams[row.stream].put_nowait(row)

    def _died(self, error: Exception) -> None:
        self._death = ProlongError(f"the transformers engine failed: {type(error).__name__}: {error}")
        for inbox in self._streams.values():
            inbox.put_nowait(self._death)
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(self._death)

    def _raise_if_dead(self) -> None:
        if self._death is not None:
            raise self._death


def _completion(row: Row) -> Completion:
    assert row.finish_reason is not None
    return Completion(
        token_ids=np.array(row.token_ids[len(row.token_ids) - len(row.logprobs) :], "<i4").tobytes(),
        behaviour_logprobs=np.array(row.logprobs, "<f4").tobytes(),
        spans=version_spans(row.starts, len(row.logprobs)),
        finish_reason=row.finish_reason,
    )
