"""The killable process that runs verifiers: `python -m prolong.verifiers.workers.worker FD MEMORY_MB SAFETY [VERIFIER...]`.

SAFETY: "sandbox", or "unsafe": what models write may run unprotected where no sandbox works. VERIFIER: a name of the registry,
loaded now if it is eager, or NAME=MODULE:ATTRIBUTE, one of the run's own, imported now.
Loop: consumes Jobs from the socket; blocks on the next one; unblocked by the pool; stops when the pool closes its end.
It owns no deadline: the pool kills it. Everything runs in the main thread, where signal handlers of the judges' libraries work.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ...common.errors import UserError, VerifierFailure
from ..adapters import user_verifiers as foreign
from ..api import Frames, Job, Loading, Probed, Ready, Score, Scored, Task, Unusable, Verifier, frame
from ..registry import NONE_OF_ITS_OWN, VERIFIERS, find, parse_answer
from ..sandbox.sandbox import Sandbox

PR_SET_PDEATHSIG = 1


class CannotLoad(BaseException):
    """A verifier will never work on this machine: not the job's fault, so nothing that judges a job may catch it."""


def limit_process(memory_mb: int) -> None:
    """No core files, an address-space limit, death with the parent; Ctrl-C is the pool's business."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def received(channel: socket.socket) -> Iterator[Job]:
    """Jobs, until the other end closes."""
    frames, decoder = Frames(), msgspec.msgpack.Decoder(Job)
    while chunk := channel.recv(1 << 18):
        yield from map(decoder.decode, frames.feed(chunk))


class Worker:
    """Judges one job after the other."""

    def __init__(self, channel: socket.socket, own: Mapping[str, Verifier] = NONE_OF_ITS_OWN) -> None:
        self._channel, self._own = channel, own
        self._loaded = {(name, False) for name in own}  # True: its sandbox is open, too

    def send(self, message: msgspec.Struct) -> None:
        self._channel.sendall(frame(message))

    def load(self, name: str, verifier: Verifier, answer: dict[str, Any]) -> None:
        """Import what the verifier needs, open the sandbox if this answer needs it, with the job's deadline standing still.

        Raises CannotLoad.
        """
        in_sandbox = verifier.in_sandbox(answer)
        if (name, in_sandbox) in self._loaded:
            return
        self.send(Loading())
        try:
            verifier.load()
            if in_sandbox:
                verifier.open_sandbox()
        except UserError as error:
            raise CannotLoad(f"verifier {name}: {error}") from error
        self._loaded |= {(name, False), (name, in_sandbox)}
        self.send(Ready())

    def judge(self, job: Job) -> Scored:
        """Raises MemoryError, CannotLoad.

        A judge's exception is the completion's doing if the stored answer passes; a VerifierFailure never is.
        """
        began = time.perf_counter()
        try:
            verifier, answer = find(job.verifier, self._own), parse_answer(job.answer)
            task = _task(job, answer)
            if job.last_try and verifier.probe is not None:
                self.load(job.verifier, verifier, answer)
                verifier.probe(answer)
                self.send(Probed(job.number))
            began = time.perf_counter()
            score = self._score(job.verifier, verifier, task)
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError):
                raise
            return Scored(number=job.number, score=None, seconds=time.perf_counter() - began, error=f"{error!r:.300}")
        return Scored(number=job.number, score=score, seconds=time.perf_counter() - began)

    def _score(self, name: str, verifier: Verifier, task: Task) -> Score:
        try:
            score = verifier.quick(task)
            if score is None:
                self.load(name, verifier, task.answer)
                score = verifier.score(task)
            return score
        except (Exception, SystemExit) as error:
            if isinstance(error, MemoryError | VerifierFailure) or verifier.probe is None:
                raise
            self.load(name, verifier, task.answer)
            verifier.probe(task.answer)
            return Score(reward=0.0, status="input_rejected", detail=f"the judge raised {error!r:.200}")


def _task(job: Job, answer: dict[str, Any]) -> Task:
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
    Sandbox.unsafe_allowed = safety == "unsafe"
    targets = dict(name.split("=", 1) for name in names if "=" in name)
    with socket.socket(fileno=fd) as channel:
        try:
            worker = Worker(channel, foreign.imported(targets))
            for name in names:
                if name in VERIFIERS and VERIFIERS[name].eager:
                    worker.load(name, VERIFIERS[name], {})
            worker.send(Ready())
            serve(worker, channel)
        except (UserError, CannotLoad) as error:
            Worker(channel).send(Unusable(str(error)))


def serve(worker: Worker, channel: socket.socket) -> None:
    """The loop. Raises CannotLoad."""
    for job in received(channel):
        try:
            worker.send(worker.judge(job))
        except MemoryError:
            worker.send(Scored(number=job.number, score=None, seconds=0.0, error="memory"))
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
