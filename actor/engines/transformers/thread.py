"""The thread that owns the model: it takes commands between two tokens, and decodes while any rollout is unfinished.

event loop --submit, abort, load--> commands --> RunningBatch.step --finished rows--> event loop
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from ....common.errors import ProlongError
from ....common.types import FinishReason
from ..load import EngineLoad
from .batch import Row, RunningBatch

CLOSE_S = 10.0  # a decoding step and a recomputation of the cache end within this


class GenerationThread:
    """Generates in the background. Methods are called from the event loop and do not block, `close` excepted."""

    def __init__(
        self,
        batch: RunningBatch,
        parameters: Mapping[str, Tensor],
        *,
        max_num_seqs: int,
        clear_kv: bool,
        on_finished: Callable[[list[Row]], None],
        on_death: Callable[[Exception], None],
    ) -> None:
        """`on_finished` and `on_death` are called in this thread; after `on_death` nothing else is."""
        self._batch, self._parameters = batch, parameters
        self._max_num_seqs, self._clear_kv = max_num_seqs, clear_kv
        self._on_finished, self._on_death = on_finished, on_death
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._version = -1
        self.engine_load = EngineLoad()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def num_unfinished(self) -> int:
        """Rows that run or wait."""
        return len(self._batch.rows) + len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> None:
        """Generate `rows`, after those that wait already."""
        self._commands.put(partial(self._waiting.extend, rows))

    def abort(self, stream: int) -> None:
        """Forget the rows of `stream`."""
        self._commands.put(partial(self._abort, stream))

    def interrupt(self) -> None:
        """Report all rows as they are, as aborted, and forget them."""
        self._commands.put(self._interrupt)

    def load(self, weights: Mapping[str, Tensor], version: int) -> Future[float]:
        """Copy `weights` into the model between two tokens. The result is the pause in seconds.

        The future raises ProlongError, and the model is untouched, if names or shapes are not those of the model. It may be
        cancelled until the load begins. It stays pending when the thread dies first: `on_death` tells.
        """
        done: Future[float] = Future()
        self._commands.put(partial(self._load, weights, version, done))
        return done

    def close(self) -> None:
        """End the thread, after the step under way. Does not wait longer than CLOSE_S: it ends with the process."""
        self._commands.put(self._close)
        self._thread.join(CLOSE_S)

    # --- in the thread ---

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands()
                self._admit()
                if self._batch.rows and not self._closing:
                    running = len(self._batch.rows)
                    ended = self._batch.step(self._version)
                    self.engine_load.step(running, running, len(self._waiting))
                    if ended:
                        self._on_finished(ended)
        # any error of torch or transformers ends the engine; the actor is told, and ends
        except Exception as error:
            self._on_death(error)

    def _take_commands(self) -> None:
        """All that are there; with nothing to generate, wait for one."""
        if not self.num_unfinished:
            self._commands.get()()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _admit(self) -> None:
        free = self._max_num_seqs - len(self._batch.rows)
        joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        if joining:
            self._batch.add(joining)

    def _abort(self, stream: int) -> None:
        self._waiting = deque(row for row in self._waiting if row.stream != stream)
        self._batch.keep(lambda row: row.stream != stream)

    def _interrupt(self) -> None:
        rows = [*self._batch.rows, *self._waiting]
        self._waiting.clear()
        self._batch.keep(lambda row: False)
        for row in rows:
            row.finish_reason = FinishReason.abort
        self._on_finished(rows)

    def _load(self, weights: Mapping[str, Tensor], version: int, done: Future[float]) -> None:
        start = perf_counter()
        if not done.set_running_or_notify_cancel():
            return
        try:
            self._check(weights)
        except ProlongError as error:
            done.set_exception(error)
            return
        with torch.no_grad():
            for name, tensor in weights.items():
                self._parameters[name].copy_(tensor)
        self._version = version
        if self._clear_kv:
            self._batch.recompute()
        done.set_result(perf_counter() - start)

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        """Raises ProlongError unless every parameter is there, and nothing else, in the model's shapes."""
        if weights.keys() != self._parameters.keys():
            odd = sorted(weights.keys() ^ self._parameters.keys())
            raise ProlongError(f"the learner's parameters are not those of model.path: {odd[:3]} are on one side only")
        for name, tensor in weights.items():
            if tensor.shape != self._parameters[name].shape:
                shapes = f"{list(tensor.shape)}, model.path has {list(self._parameters[name].shape)}"
                raise ProlongError(f"the learner's parameters are not those of model.path: {name} is {shapes}")

    def _close(self) -> None:
        self._closing = True
