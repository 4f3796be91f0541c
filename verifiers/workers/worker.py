"""The killable process that runs verifiers: `python -m prolong.verifiers.workers.worker FD MEMORY_MB SAFETY [VERIFIER...]`.

SAFETY is "sandbox", or "unsafe": code that models write may run unprotected where no sandbox works. VERIFIER is a name of the
registry, loaded at the start if it is eager, or NAME=MODULE:ATTRIBUTE, a verifier of the user's, imported at the start.

Loop: consumes Jobs from the socket; blocks on the next one; unblocked by the pool; stops when the pool closes its end.
The worker owns no deadline: the pool kills it. All judging happens in the main thread, where the signal handlers of the judges'
libraries work.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping

import msgspec

from ...common.errors import ProlongError, UserError, VerifierFailure
from ...common.signals import die_with_parent
from ...common.types import VerdictStatus
from .. import user_verifiers
from ..api import Answer, Score, Task, Verifier
from ..registry import NO_VERIFIERS, VERIFIERS, find, parse_answer
from .frames import (
    OUT_OF_MEMORY,
    FrameReader,
    Job,
    Loading,
    Probed,
    Raised,
    Ready,
    Scored,
    StillRunning,
    Unusable,
    to_frame,
)

SIGN_OF_LIFE_S = 1.0  # at most so often
MAX_FRAMES = 20  # of a traceback that the pool gets


class CannotLoad(BaseException):
    """A verifier cannot work on this machine. No job is to blame, so nothing that judges a job may catch it."""


def limit_process(memory_mb: int) -> None:
    """Take away core files, limit the address space, die with the parent; leave Ctrl-C to the pool."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    if sys.platform == "linux":
        die_with_parent()


def received(channel: socket.socket) -> Iterator[Job]:
    """Jobs, until the other end closes."""
    frames, decoder = FrameReader(), msgspec.msgpack.Decoder(Job)
    while chunk := channel.recv(1 << 18):
        yield from map(decoder.decode, frames.feed(chunk))


class Worker:
    """Judges one job after the other. own: the user's verifiers by name, already loaded. allow_unsafe: see Verifier."""

    def __init__(
        self, channel: socket.socket, own: Mapping[str, Verifier] = NO_VERIFIERS, *, allow_unsafe: bool = False
    ) -> None:
        self._channel, self._own, self._allow_unsafe = channel, own, allow_unsafe
        self._loaded = set(own)
        self._with_sandbox = set[str]()
        self._said_alive = 0.0

    def send(self, message: msgspec.Struct) -> None:
        self._channel.sendall(to_frame(message))

    def say_alive(self) -> None:
        """Tell the pool that a program is running within limits of its own."""
        if time.monotonic() - self._said_alive > SIGN_OF_LIFE_S:
            self._said_alive = time.monotonic()
            self.send(StillRunning())

    def load(self, name: str, verifier: Verifier, answer: Answer) -> None:
        """Import what the verifier needs and open its sandbox if this answer needs one; the job's deadline stands still.

        Raises CannotLoad, also where this machine lacks what the answer takes.
        """
        needs_sandbox = verifier.needs_sandbox(answer)
        try:
            verifier.check_machine(answer)
            if name in self._loaded and (name in self._with_sandbox or not needs_sandbox):
                return
            self.send(Loading())
            if name not in self._loaded:
                verifier.load()
            if needs_sandbox:
                verifier.open_sandbox(allow_unsafe=self._allow_unsafe)
                verifier.report_to(self.say_alive)
        except UserError as error:
            raise CannotLoad(f"verifier {name}: {error}") from error
        self._loaded.add(name)
        if needs_sandbox:
            self._with_sandbox.add(name)
        self.send(Ready())

    def judge(self, job: Job) -> Scored:
        """Judge one job. Raises MemoryError, CannotLoad.

        An exception of the judge is blamed on the completion if the stored answer passes; a VerifierFailure never is.
        """
        began = time.perf_counter()
        try:
            verifier, answer = find(job.verifier, self._own), parse_answer(job.answer)
            task = _task(job, answer)
            if job.last_try:
                self.load(job.verifier, verifier, answer)
                harmless = verifier.probe(answer)
                if harmless and not verifier.needs_sandbox(answer):
                    # what runs in a sandbox has limits of its own: a worker that hangs there is not the program's doing
                    self.send(Probed(job.number))
            began = time.perf_counter()
            score, raised = self._score(job.verifier, verifier, task)
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError):
                raise
            # errors of ours say what happened; any other is a fault in the judge
            raised = None if isinstance(error, ProlongError) else raised_by(error)
            seconds = time.perf_counter() - began
            return Scored(number=job.number, score=None, seconds=seconds, error=f"{error!r:.300}", raised=raised)
        return Scored(number=job.number, score=score, seconds=time.perf_counter() - began, raised=raised)

    def _score(self, name: str, verifier: Verifier, task: Task) -> tuple[Score, Raised | None]:
        """The score, and the exception that it stands for."""
        try:
            score = verifier.quick(task)
            if score is None:
                self.load(name, verifier, task.answer)
                score = verifier.score(task)
            return score, None
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError | VerifierFailure):
                raise
            self.load(name, verifier, task.answer)
            if not verifier.probe(task.answer):
                raise
            detail = f"the judge raised {error!r:.200}"
            return Score(reward=0.0, status=VerdictStatus.input_rejected, detail=detail), raised_by(error)


def raised_by(error: BaseException) -> Raised:
    """The place and the way of an exception. Its message is quoted, because it may hold what the completion says."""
    frames = traceback.extract_tb(error.__traceback__, limit=-MAX_FRAMES)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
    text = "".join(traceback.format_list(frames))
    return Raised(kind=f"{type(error).__name__} at {place}", traceback=f"{text}{error!r:.300}")


def _task(job: Job, answer: Answer) -> Task:
    return Task(
        completion=job.completion,
        answer=answer,
        thinking_open=job.thinking_open,
        cut_off=job.cut_off,
        prompt=job.prompt,
        prompt_ids=job.prompt_ids,
        completion_ids=job.completion_ids,
    )


def main(fd: int, memory_mb: int, safety: str, names: list[str]) -> None:
    limit_process(memory_mb)
    targets = dict(name.split("=", 1) for name in names if "=" in name)
    # a pool that closes its end, or dies, with a message under way
    with contextlib.suppress(ConnectionError), socket.socket(fileno=fd) as channel:
        try:
            worker = Worker(channel, user_verifiers.imported(targets), allow_unsafe=safety == "unsafe")
            for name in names:
                if name in VERIFIERS and VERIFIERS[name].eager:
                    worker.load(name, VERIFIERS[name], {})
            worker.send(Ready())
            serve_jobs(worker, channel)
        except (UserError, CannotLoad) as error:
            Worker(channel).send(Unusable(str(error)))


def serve_jobs(worker: Worker, channel: socket.socket) -> None:
    """Judge jobs until the pool closes its end. Raises CannotLoad."""
    for job in received(channel):
        try:
            worker.send(worker.judge(job))
        except MemoryError:
            worker.send(Scored(number=job.number, score=None, seconds=0.0, error=OUT_OF_MEMORY))
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
