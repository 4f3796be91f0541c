"""Verifiers in killable worker processes, and the rule for what a failure means.

    verify() --> queue --> worker 0..N-1 (a few jobs each, answered in order) --> verdict
                  ^------ retry, alone, in a fresh worker: after a timeout, a crash or exhausted memory

The pool owns every deadline: a job's clock starts when the worker turns to it and stands still while the worker imports.
After a second failure the verdict is None (the verifier's own fault), unless the stored answer alone was judged without trouble
in that same worker: then the completion is what stalls the judge, and it earns 0 with status "input_rejected". Otherwise
writing such answers would be a way to have bad rollouts dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ...common.errors import ConfigError, ProlongError, VerifierFailure
from ...common.types import MAX_DETAIL, FinishReason, Prompt, Verdict, VerdictStatus
from ..adapters import user_verifiers as foreign
from ..api import Job, Probed, Ready, Score, Scored, Unusable
from ..registry import find
from .process import WorkerProcess

WINDOW = 8  # jobs that one worker holds, so that it never waits for the pool
MAX_FAILED_STARTS = 3  # in a row


@dataclass(eq=False)
class Pending:
    """A job that has no verdict yet."""

    job: Job
    future: asyncio.Future[Verdict]
    failures: list[str] = field(default_factory=list)
    probed: bool = False


def encodable(text: str) -> str:
    """With a question mark in the place of every half of a surrogate pair: JSON may hold some, UTF-8 cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()


class VerifierPool:
    """`workers` processes that judge completions; `timeout_s` is the time that one completion may take.

    preload: verifiers whose libraries the workers import at their start. own: verifiers of the run's own, name ->
    MODULE:ATTRIBUTE, imported by the workers alone. allow_unsafe_code: see sandbox.py. counters: what happened, by name.
    """

    def __init__(
        self,
        workers: int,
        timeout_s: float,
        *,
        preload: tuple[str, ...] = (),
        own: Mapping[str, str] = foreign.NO_TARGETS,
        allow_unsafe_code: bool = False,
        memory_mb: int = 4096,
        start_timeout_s: float = 120.0,
        recycle_after: int = 50_000,
    ) -> None:
        self._own = foreign.declared(own)
        for name in preload:
            find(name, self._own)
        self._num_workers, self._timeout_s, self._start_timeout_s = workers, timeout_s, start_timeout_s
        self._recycle_after = recycle_after
        safety = "unsafe" if allow_unsafe_code else "sandbox"
        self._options = (str(memory_mb), safety, *preload, *(f"{name}={target}" for name, target in own.items()))
        self._workers: list[WorkerProcess[Pending]] = []
        self._queue: deque[Pending] = deque()
        self._numbers = itertools.count()
        self._failed_starts = 0
        self._broken: ProlongError | None = None
        self._usable: asyncio.Future[None]
        self._pump_scheduled = self._closed = False
        self.counters: Counter[str] = Counter()

    @property
    def broken(self) -> bool:
        """Whether it will never judge anything again."""
        return self._broken is not None

    async def start(self) -> None:
        """Start the workers; does not wait for them."""
        self._loop = asyncio.get_running_loop()
        self._usable = self._loop.create_future()
        for _ in range(self._num_workers):
            self._spawn([])

    async def usable(self) -> None:
        """Wait until the first worker is ready. Blocks for at most `start_timeout_s` three times. Raises as `verify` does."""
        await asyncio.shield(self._usable)
        if self._broken:
            raise self._broken

    async def verify(
        self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes = b""
    ) -> Verdict:
        """The verdict on one completion. Blocks for at most two deadlines and two worker starts once its turn has come.

        A completion that was cut off is judged like others; if no answer is found in it, its status is "truncated".
        `completion_ids` ([T] int32) go to verifiers of the run's own.
        Raises UserError for an unknown verifier or one that cannot work on this machine, VerifierFailure when no worker starts.
        """
        find(prompt.verifier, self._own)
        if self._broken:
            raise self._broken
        if self._closed:
            raise VerifierFailure("a verdict was asked of a verifier pool that is closed")
        if finish_reason is FinishReason.abort:
            return self._verdict(prompt.verifier, None, "crash", "the rollout was given up")
        job = Job(
            number=next(self._numbers),
            verifier=prompt.verifier,
            completion=encodable(completion),
            answer=prompt.answer,
            thinking_open=prompt.text.rstrip().endswith("<think>"),
            cut_off=finish_reason is FinishReason.length,
        )
        if prompt.verifier in self._own:
            seen = {"prompt": encodable(prompt.text), "prompt_ids": prompt.token_ids, "completion_ids": completion_ids}
            job = msgspec.structs.replace(job, **seen)
        pending = Pending(job, self._loop.create_future())
        self._queue.append(pending)
        self._schedule_pump()
        return await pending.future

    async def close(self) -> None:
        """Kill the workers; verdicts still awaited are cancelled."""
        self._closed = True
        waiting = [*self._queue, *(pending for worker in self._workers for pending in [*worker.reserved, *worker.jobs])]
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._queue.clear()
        for pending in waiting:
            pending.future.cancel()

    # --- work out to the workers --------------------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:  # one write per worker for everything queued in this turn of the event loop
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        ready = [worker for worker in self._workers if worker.ready and not worker.retiring]
        while self._queue and ready:
            worker = min(ready, key=lambda w: len(w.jobs))
            if len(worker.jobs) >= WINDOW:
                break
            pending = self._queue.popleft()
            if not pending.future.done():
                worker.give(pending, pending.job)
        for worker in ready:
            worker.flush()

    def _spawn(self, reserved: list[Pending], *, retiring: bool = False) -> None:
        worker = WorkerProcess[Pending](
            loop=self._loop,
            options=self._options,
            timeout_s=self._timeout_s,
            start_timeout_s=self._start_timeout_s,
            on_message=self._on_message,
            on_end=self._on_end,
        )
        worker.reserved, worker.retiring = reserved, retiring
        self._workers.append(worker)

    # --- what comes back ----------------------------------------------------------------------------------------------

    def _on_message(self, worker: WorkerProcess[Pending], message: Ready | Probed | Scored | Unusable) -> None:
        if isinstance(message, Ready):
            self._on_ready(worker)
        elif isinstance(message, Unusable):
            self._break(ConfigError(message.reason), worker.reserved)
        elif isinstance(message, Probed):
            worker.jobs[0].probed = True
        elif message.error == "memory":
            worker.last_words = "memory"  # its end follows, and is handled there
        else:
            self._on_scored(worker.jobs.popleft(), message)
            worker.num_done += 1
            if worker.num_done == self._recycle_after:
                self.counters["recycled"] += 1
                worker.retiring = True
                self._spawn([])  # the retired one serves what it holds
            if worker.retiring and not worker.jobs:
                self._workers.remove(worker)
                worker.end()
        if self._queue:
            self._schedule_pump()

    def _on_ready(self, worker: WorkerProcess[Pending]) -> None:
        self._failed_starts = 0
        if not self._usable.done():
            self._usable.set_result(None)
        if worker.reserved:
            for pending in worker.reserved:
                worker.give(pending, pending.job)
            worker.reserved = []
            worker.flush()

    def _on_scored(self, pending: Pending, scored: Scored) -> None:
        name, score = pending.job.verifier, scored.score
        if score is None:  # the judge raised, and raises for the stored answer too: the same everywhere, so no second try
            self._settle(pending, self._verdict(name, None, "crash", scored.error, scored.seconds))
        elif score.status == "no_answer" and pending.job.cut_off:
            detail = f"cut off at the token limit: {score.detail}"
            self._settle(pending, self._verdict(name, score.reward, "truncated", detail, scored.seconds, score))
        else:
            self._settle(pending, self._verdict(name, score.reward, score.status, score.detail, scored.seconds, score))

    def _on_end(self, worker: WorkerProcess[Pending], why: str, blameless: bool) -> None:
        """A worker died, or was killed for missing a deadline. `blameless`: somebody else killed it."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        if self._broken:
            return
        self.counters["restarts"] += 1
        retry = worker.reserved
        if not worker.was_ready:
            self._failed_starts += 1
        elif worker.jobs:
            culprit = worker.jobs.popleft()
            self._queue.extendleft(reversed(worker.jobs))
            retry = [culprit] if self._retried(culprit, why, blameless) else []
            self._schedule_pump()
        if self._failed_starts >= MAX_FAILED_STARTS:
            reason = f"verifier workers ended {MAX_FAILED_STARTS} times in a row before they were ready (last: {why})"
            hint = "their standard error says why: try `python -m prolong.verifiers.workers.worker` with the same Python"
            self._break(VerifierFailure(f"{reason}; {hint}"), retry)
        elif retry or not worker.retiring:
            self._spawn(retry, retiring=worker.retiring)

    def _retried(self, pending: Pending, why: str, blameless: bool) -> bool:
        """Whether a failed job gets its second try; otherwise it gets its verdict."""
        self.counters["timeouts" if why == "timeout" else "crashes"] += 1
        pending.failures.append(why)
        if len(pending.failures) == 1:
            self.counters["retries"] += 1
            pending.job = msgspec.structs.replace(pending.job, number=next(self._numbers), last_try=True)
            return True
        detail, name = f"failed twice: {json.dumps(pending.failures)}", pending.job.verifier
        if pending.probed and not blameless:
            self._settle(pending, self._verdict(name, 0.0, "input_rejected", detail, self._timeout_s))
        else:
            self._settle(
                pending, self._verdict(name, None, "timeout" if why == "timeout" else "crash", detail, self._timeout_s)
            )
        return False

    def _break(self, error: ProlongError, reserved: list[Pending]) -> None:
        """No worker will ever start: everybody who waits hears why."""
        self._broken = error
        if not self._usable.done():
            self._usable.set_result(None)
        waiting = [*reserved, *self._queue, *(p for worker in self._workers for p in [*worker.reserved, *worker.jobs])]
        self._queue.clear()
        for pending in waiting:
            if not pending.future.done():
                pending.future.set_exception(error)

    def _settle(self, pending: Pending, verdict: Verdict) -> None:
        if not pending.future.done():
            pending.future.set_result(verdict)

    def _verdict(
        self, name: str, reward: float | None, status: str, detail: str, seconds: float = 0.0, score: Score | None = None
    ) -> Verdict:
        self.counters["verdicts"] += 1
        self.counters[f"status/{status}"] += 1
        metrics = score.metrics if score else {}
        return Verdict(
            reward=reward,
            status=VerdictStatus(status),
            verifier=name,
            seconds=seconds,
            detail=detail[:MAX_DETAIL],
            metrics=metrics,
        )
