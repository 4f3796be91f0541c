"""A pool of killable worker processes on this machine, and the rule for the meaning of a failure.

    verify() --> queue --> worker 0..N-1 (a few jobs each, answered in order) --> verdict
                  ^------ retry, at the head of a fresh worker: after a timeout, a crash or exhausted memory

The pool owns every deadline. A job's clock starts when the worker turns to it, and stands still while the worker imports.
After a second failure the verdict is None (the verifier's own fault), unless the stored answer was judged without trouble in
that same worker. Then the completion is what stalls the judge, and it earns 0 with status "input_rejected"; otherwise models
could learn to have bad rollouts dropped by writing such answers. Programs in the sandbox have limits of their own: while one of
them runs, its worker says so and the clock starts anew, and a deadline that is missed all the same is never their fault.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from ...common.config.verifiers import JudgeConfig
from ...common.errors import ConfigError, ProlongError, VerifierFailure
from ...common.types import MAX_DETAIL, FinishReason, Prompt, Verdict, VerdictStatus
from .. import user_verifiers
from ..answers.extraction import stored_answer
from ..api import UNDECIDED
from ..registry import find, parse_answer
from ..services.model_judge import JudgeError, ModelJudge
from .frames import Job, Probed, Raised, Ready, Scored, Unusable
from .process import WorkerEnd, WorkerProcess, WorkerState

WINDOW = 8  # jobs that one worker holds, so that it never waits for the pool
MAX_FAILED_STARTS = 3  # in a row
DEFAULT_MEMORY_MB = 4096  # address space of one worker
MAX_TOLD = 100  # kinds of exceptions that are logged

log = logging.getLogger(__name__)


@dataclass(eq=False)
class PendingJob:
    """A job that has no verdict yet."""

    job: Job
    future: asyncio.Future[Verdict]
    failures: list[str] = field(default_factory=list)
    probed: bool = False  # its stored answer was judged without trouble by the worker in hand


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStatus:
    """One worker at one moment."""

    pid: int
    state: WorkerState
    num_jobs: int  # in its hands
    probed: bool  # see PendingJob, for the job that it is at


def encodable(text: str) -> str:
    """Replace every half of a surrogate pair by a question mark: JSON may hold some, UTF-8 cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()


class LocalPool:
    """`num_workers` processes that judge completions; `timeout_s` is the time that one completion may take.

    counters: events by name, for metrics.
    """

    def __init__(
        self,
        num_workers: int,
        timeout_s: float,
        *,
        preload: tuple[str, ...] = (),
        own: Mapping[str, str] = user_verifiers.NO_TARGETS,
        judge: JudgeConfig | None = None,
        allow_unsafe_code: bool = False,
        memory_mb: int = DEFAULT_MEMORY_MB,
        start_timeout_s: float = 120.0,
        recycle_after: int = 50_000,
    ) -> None:
        """preload: verifiers whose libraries the workers import at their start. own: the user's verifiers, name ->
        MODULE:ATTRIBUTE, imported in the workers only. judge: the model to ask where a worker leaves a score undecided.
        allow_unsafe_code: see sandbox/opening.py. recycle_after: jobs of one
        worker process.

        Raises UserError for an unknown name in `preload`, ConfigError for a bad name or target in `own`.
        """
        self._own = user_verifiers.declared(own)
        for name in preload:
            find(name, self._own)
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self._start_timeout_s, self._recycle_after = start_timeout_s, recycle_after
        safety = "unsafe" if allow_unsafe_code else "sandbox"
        self._options = (str(memory_mb), safety, *preload, *(f"{name}={target}" for name, target in own.items()))
        self._workers: list[WorkerProcess[PendingJob]] = []
        self._queue: deque[PendingJob] = deque()
        self._numbers = itertools.count()
        self._failed_starts = 0
        self._broken: ProlongError | None = None
        self._pump_scheduled = self._closed = False
        self._usable: asyncio.Future[None]
        self.counters: Counter[str] = Counter()
        self._judge = ModelJudge(judge, self.counters) if judge else None
        self._asking = set[asyncio.Task[None]]()
        self._told = set[str]()

    @property
    def broken(self) -> bool:
        """Whether it will never judge anything again."""
        return self._broken is not None

    def statuses(self) -> list[WorkerStatus]:
        """The present state of each worker."""
        return [
            WorkerStatus(
                pid=worker.pid,
                state=worker.state,
                num_jobs=len(worker.jobs),
                probed=bool(worker.jobs) and worker.jobs[0].probed,
            )
            for worker in self._workers
        ]

    def is_own(self, verifier: str) -> bool:
        """Whether this is the name of a verifier of the user's."""
        return verifier in self._own

    def granted_s(self, prompt: Prompt) -> float:
        """CPU seconds that the prompt's answer grants to programs of the model's."""
        return find(prompt.verifier, self._own).granted_s(parse_answer(prompt.answer))

    def check(self, verifier: str) -> None:
        """Raise UserError for an unknown verifier, and the reason if the pool is broken."""
        find(verifier, self._own)
        if self._broken:
            raise self._broken

    async def start(self) -> None:
        """Start the workers; does not wait for them."""
        self._loop = asyncio.get_running_loop()
        self._usable = self._loop.create_future()
        for _ in range(self.num_workers):
            self._spawn()

    async def usable(self) -> None:
        """Wait until the first worker is ready. Blocks for at most three times `start_timeout_s`. Raises as `verify` does."""
        await asyncio.shield(self._usable)
        if self._broken:
            raise self._broken

    async def verify(
        self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes = b""
    ) -> Verdict:
        """Judge one completion. Blocks for at most two deadlines and two worker starts once its turn has come.

        A completion that was cut off is judged like others; if no answer is found in it, its status is "truncated".
        `completion_ids` ([T] int32) go to the user's verifiers.
        Raises UserError for an unknown verifier or one that cannot work on this machine, VerifierFailure when no worker starts.
        """
        self.check(prompt.verifier)
        if self._closed:
            raise VerifierFailure("a verdict was asked of a verifier pool that is closed")
        if finish_reason is FinishReason.abort:
            return self._verdict(prompt.verifier, None, VerdictStatus.crash, "the rollout was given up")
        pending = PendingJob(self._job(prompt, completion, finish_reason, completion_ids), self._loop.create_future())
        self._queue.append(pending)
        self._schedule_pump()
        return await pending.future

    def _job(self, prompt: Prompt, completion: str, finish_reason: FinishReason, completion_ids: bytes) -> Job:
        job = Job(
            number=next(self._numbers),
            verifier=prompt.verifier,
            completion=encodable(completion),
            answer=prompt.answer,
            thinking_open=prompt.text.rstrip().endswith("<think>"),
            cut_off=finish_reason is FinishReason.length,
        )
        if prompt.verifier == "judge":
            return msgspec.structs.replace(job, prompt=encodable(prompt.text))
        if not self.is_own(prompt.verifier):
            return job
        return msgspec.structs.replace(
            job, prompt=encodable(prompt.text), prompt_ids=prompt.token_ids, completion_ids=completion_ids
        )

    async def close(self) -> None:
        """Kill the workers and cancel the verdicts that are still awaited."""
        self._closed = True
        waiting = self._waiting()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._queue.clear()
        for pending in waiting:
            pending.future.cancel()
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    # --- jobs to the workers ------------------------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        """Send jobs later in this turn of the event loop: one write per worker for all jobs queued in it."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        ready = [worker for worker in self._workers if worker.state is WorkerState.ready and worker.accepts_jobs]
        while self._queue and ready:
            worker = min(ready, key=lambda w: len(w.jobs))
            if len(worker.jobs) >= WINDOW:
                break
            pending = self._queue.popleft()
            if not pending.future.done():
                worker.give(pending, pending.job)
        for worker in ready:
            worker.flush()

    def _spawn(self, retried: PendingJob | None = None, *, accepts_jobs: bool = True) -> None:
        """Start a worker. retried: its first job. accepts_jobs: whether it gets others."""
        worker = WorkerProcess[PendingJob].start(
            self._options,
            loop=self._loop,
            timeout_s=self.timeout_s,
            start_timeout_s=self._start_timeout_s,
            on_message=self._on_message,
            on_end=self._on_end,
        )
        if not accepts_jobs:
            worker.retire()
        if retried:
            worker.give(retried, retried.job)
            worker.flush()
        self._workers.append(worker)

    # --- answers and deaths -------------------------------------------------------------------------------------------

    def _on_message(self, worker: WorkerProcess[PendingJob], message: Ready | Probed | Scored | Unusable) -> None:
        if isinstance(message, Ready):
            self._failed_starts = 0
            self._set_usable()
        elif isinstance(message, Unusable):
            self._break(ConfigError(message.reason))
        elif isinstance(message, Probed):
            worker.jobs[0].probed = True
        else:
            self._on_scored(worker.finish_job(), message)
            if worker.num_done == self._recycle_after:
                self.counters["recycled"] += 1
                worker.retire()
                self._spawn()
            if not worker.accepts_jobs and not worker.jobs:
                self._workers.remove(worker)
                worker.end()
        if self._queue:
            self._schedule_pump()

    def _on_scored(self, pending: PendingJob, scored: Scored) -> None:
        name, score = pending.job.verifier, scored.score
        if scored.raised:
            self._tell(name, scored.raised)
        if score is None:
            # the judge raised, for the stored answer too: any worker would, so there is no second try
            verdict = self._verdict(name, None, VerdictStatus.crash, scored.error, scored.seconds)
        elif name == "judge" and UNDECIDED in score.metrics:
            task = self._loop.create_task(self._ask_model(pending, score.detail, scored.seconds))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            return
        elif score.status is VerdictStatus.no_answer and pending.job.cut_off:
            detail = f"cut off at the token limit: {score.detail}"
            verdict = self._verdict(name, score.reward, VerdictStatus.truncated, detail, scored.seconds, score.metrics)
        else:
            verdict = self._verdict(name, score.reward, score.status, score.detail, scored.seconds, score.metrics)
        _settle(pending, verdict)

    def _tell(self, name: str, raised: Raised) -> None:
        """Count what a verifier raised, and log the first of each kind."""
        self.counters["raised"] += 1
        kind = f"{name}: {raised.kind}"
        if kind not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(kind)
            log.error("verifier %s raised; further ones of this kind are only counted:\n%s", name, raised.traceback)

    async def _ask_model(self, pending: PendingJob, said: str, seconds: float) -> None:
        """Settle a job by the model's verdict; without one there is no reward. Requests wait here and in no worker."""
        job, began = pending.job, self._loop.time()
        answer = parse_answer(job.answer)
        reward, status, detail = None, VerdictStatus.crash, "verifiers.judge is empty: there is no model to ask"
        try:
            if self._judge is not None:
                question = str(answer.get("question") or job.prompt)
                reward = float(await self._judge.ask(question, stored_answer(answer), said))
                status, detail = VerdictStatus.ok, f"by the model; the answer: {said}"
        except JudgeError as error:
            status, detail = VerdictStatus.timeout if error.timed_out else VerdictStatus.crash, str(error)
        except asyncio.CancelledError:
            pending.future.cancel()
            raise
        metrics = {"judged_by_model": float(reward is not None)}
        _settle(pending, self._verdict(job.verifier, reward, status, detail, seconds + self._loop.time() - began, metrics))

    def _on_end(self, worker: WorkerProcess[PendingJob], end: WorkerEnd) -> None:
        """A worker died, or was killed for missing a deadline: retry or settle its first job, and replace it."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        if self._broken:
            return
        self.counters["restarts"] += 1
        first = worker.jobs.popleft() if worker.jobs else None
        if worker.state is WorkerState.starting:
            # the job that it held was never begun, so it is not to blame
            self._failed_starts += 1
        elif first:
            self._queue.extendleft(reversed(worker.jobs))
            if not self._is_retried(first, end):
                first = None
            self._schedule_pump()
        if self._failed_starts >= MAX_FAILED_STARTS:
            reason = f"verifier workers ended {MAX_FAILED_STARTS} times in a row before they were ready (last: {end.why})"
            hint = "their standard error says why: try `python -m prolong.verifiers.workers.worker` with the same Python"
            self._break(VerifierFailure(f"{reason}; {hint}"), first)
        elif first or worker.accepts_jobs:
            self._spawn(first, accepts_jobs=worker.accepts_jobs)

    def _is_retried(self, pending: PendingJob, end: WorkerEnd) -> bool:
        """Whether a failed job gets its second try; otherwise it gets its verdict here."""
        timed_out = end.why == "timeout"
        self.counters["timeouts" if timed_out else "crashes"] += 1
        pending.failures.append(end.why)
        if len(pending.failures) == 1:
            self.counters["retries"] += 1
            pending.job = msgspec.structs.replace(pending.job, number=next(self._numbers), last_try=True)
            return True
        reward, status = None, VerdictStatus.timeout if timed_out else VerdictStatus.crash
        if pending.probed and not end.killed_from_outside:
            reward, status = 0.0, VerdictStatus.input_rejected
        detail = f"failed twice: {json.dumps(pending.failures)}"
        _settle(pending, self._verdict(pending.job.verifier, reward, status, detail, self.timeout_s))
        return False

    def _break(self, error: ProlongError, retried: PendingJob | None = None) -> None:
        """Give the reason to all who wait, because no worker will ever start. retried: a job that no worker holds now."""
        self._broken = error
        self._set_usable()
        waiting = self._waiting()
        if retried:
            waiting.append(retried)
        self._queue.clear()
        for pending in waiting:
            if not pending.future.done():
                pending.future.set_exception(error)

    def _set_usable(self) -> None:
        if not self._usable.done():
            self._usable.set_result(None)

    def _waiting(self) -> list[PendingJob]:
        return [*self._queue, *(pending for worker in self._workers for pending in worker.jobs)]

    def _verdict(
        self,
        name: str,
        reward: float | None,
        status: VerdictStatus,
        detail: str,
        seconds: float = 0.0,
        metrics: Mapping[str, float] = MappingProxyType({}),
    ) -> Verdict:
        self.counters["verdicts"] += 1
        self.counters[f"status/{status}"] += 1
        return Verdict(
            reward=reward,
            status=status,
            verifier=name,
            seconds=seconds,
            detail=detail[:MAX_DETAIL],
            metrics=dict(metrics),
        )


def _settle(pending: PendingJob, verdict: Verdict) -> None:
    if not pending.future.done():
        pending.future.set_result(verdict)
