"""Keeps the processes of a run alive until their leader ends, and ends all of them when it does, fails or is interrupted.

    events: a pidfd (a process ended)   a signal (stop)   a timer (start again)   fail() (the run cannot go on)

*Blocks on* the event loop alone. *Stops when* the leader ends well, a process ends with a mistake of the user (exit code 2),
twice with the same error of the program (repeated_error.py) and no step in between, or more often than allowed, or a signal
arrives; then all processes are ended within `launch.stop_s`.

An actor that ends with code 0 was asked to leave, by a signal or because the run is over, and is not started again: actors can
be taken from a run. When no actor is left and the run does not end, the last one is started again, which counts as a restart.
A process that hangs is not noticed here: the buffer notices its silence, and a learner without batches ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from ...common.config.sections import LaunchConfig
from .process import ChildProcess
from .repeated_error import ProgramError, last_error

USER_ERROR = 2
SIGNALLED = 128  # an exit code above it is 128 + the number of a signal
HEALTHY_S = 600.0  # a process that ran for so long may be restarted as often as at the beginning
EPISODE_S = 60.0  # failures that are closer than this have one cause, the first of them
BACKOFF_S = 0.5  # wait before the first restart; it doubles with each further one
MAX_BACKOFF_S = 10.0
LEAVE_S = 10.0  # after the leader or an actor ended well: time for the others to end by themselves
WRAP_UP_S = 60.0  # a leader whose run is finished is waited for no longer


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How the run ended: exit code, one sentence, and the end of the log of the process that failed first."""

    code: int
    reason: str = ""
    culprit: str = ""
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A process that ended although the run was not over."""

    at: float
    name: str
    code: int
    log: list[str]
    step: int = 0  # the last one of the run then
    error: ProgramError | None = None

    def repeats(self, earlier: Failure | None) -> bool:
        """Whether it is the earlier failure over again, with no step done in between."""
        if earlier is None or self.error is None:
            return False
        return self.error.repeats(earlier.error) and self.step <= earlier.step


def first_cause(failures: Sequence[Failure]) -> Failure:
    """The first failure of the latest episode. When one process dies others follow, and their logs do not name the cause."""
    cause = failures[-1]
    for failure in reversed(failures):
        if cause.at - failure.at > EPISODE_S:
            break
        cause = failure
    return cause


def restart_delay_s(restarts: int) -> float:
    """The wait before the next start of a process that was restarted so many times."""
    return min(BACKOFF_S * 2 ** min(restarts, 16), MAX_BACKOFF_S)


class Supervisor:
    """Supervises the processes of one run.

    `leader`: the run ends when this process ends well, which it does if `finished()` is true then. `last`: is asked to leave
    after all others, which hand their work back to it. `limits`: how often a process is started again, and how long the end
    may take. `note` is told of every restart, in a sentence. `step` gives the last
    step that the run has done.
    """

    def __init__(
        self,
        processes: Sequence[ChildProcess],
        *,
        leader: str,
        last: str,
        limits: LaunchConfig,
        finished: Callable[[], bool],
        note: Callable[[str], None],
        step: Callable[[], int],
    ) -> None:
        self._processes = {process.name: process for process in processes}
        self._leader, self._last = leader, last
        self._limits = limits
        self._finished = finished
        self._note = note
        self._step = step
        self._failures: list[Failure] = []
        self._restarts = dict.fromkeys(self._processes, 0)
        self._started: dict[str, float] = {}
        self._running: dict[str, asyncio.Event] = {}  # name -> set when it has ended
        self._left: set[str] = set()  # ended with code 0
        self._timers: list[asyncio.TimerHandle] = []
        self._interrupts = 0
        self._hurry = asyncio.Event()

    async def run(self) -> RunOutcome:
        """Start all processes, supervise them, end all of them."""
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[RunOutcome] = self._loop.create_future()
        # Python delivers signals to the main thread alone; in another one, `stop` is the way
        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if in_main else ()
        for signum in signals:
            self._loop.add_signal_handler(signum, self._interrupted, signum)
        try:
            for name in self._processes:
                self._start(name)
            outcome = await self._end
            if outcome.code == 0:
                await self._wait_for(list(self._running), LEAVE_S)
            return outcome
        finally:
            await self._stop_all()
            for signum in signals:
                self._loop.remove_signal_handler(signum)

    def fail(self, reason: str, code: int = 1) -> None:
        """End the run. The outcome shows the log of the process that failed first, if one did."""
        cause = first_cause(self._failures) if self._failures else None
        if cause is None:
            self._finish(RunOutcome(code=code, reason=reason))
        else:
            self._finish(RunOutcome(code=code, reason=reason, culprit=cause.name, log=cause.log))

    def stop(self) -> None:
        """End the run as Ctrl-C does. In the thread of `run`."""
        self._interrupted(signal.SIGINT)

    def _finish(self, outcome: RunOutcome) -> None:
        if not self._end.done():
            self._end.set_result(outcome)

    def _start(self, name: str) -> None:
        if self._end.done():
            return
        self._left.discard(name)
        try:
            descriptor = self._processes[name].start()
        except (OSError, subprocess.SubprocessError) as error:
            self.fail(f"{name} could not be started: {error}")
            return
        self._started[name] = monotonic()
        self._running[name] = asyncio.Event()
        self._loop.add_reader(descriptor, self._ended, name, descriptor)

    def _ended(self, name: str, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        code = self._processes[name].reap()
        self._running.pop(name).set()
        if self._end.done():
            return
        if code == 0 and name != self._leader:
            self._left.add(name)
            # no actor is left: usually the run is over; if the leader goes on, it needs one
            if name != self._last and self._no_actor_left():
                self._timers.append(self._loop.call_later(LEAVE_S, self._repopulate, name))
            return
        if code == 0 and self._finished():
            self._finish(RunOutcome(code=0))
            return
        self._fault(name, code)

    def _no_actor_left(self) -> bool:
        """Whether all processes but the leader and `last` ended well."""
        return self._left >= self._processes.keys() - {self._leader, self._last}

    def _repopulate(self, name: str) -> None:
        if self._end.done() or not self._no_actor_left():
            return
        if self._finished():
            # on a busy machine the leader may need longer than the actors to end; its work is done
            self._timers.append(self._loop.call_later(WRAP_UP_S, self._finish, RunOutcome(code=0)))
            return
        self._fault(name, 0)

    def _fault(self, name: str, code: int) -> None:
        """Record the failure of a process that the run needs, and start it again if that may help."""
        process = self._processes[name]
        failure = Failure(
            at=monotonic(),
            name=name,
            code=code,
            log=process.tail(),
            step=self._step(),
            # a process that a signal ended, or that ended well, wrote no error that it died of
            error=last_error(process.last_output()) if 0 < code < SIGNALLED else None,
        )
        earlier = next((each for each in reversed(self._failures) if each.name == name), None)
        self._failures.append(failure)
        if failure.error is not None and failure.repeats(earlier):
            again = f"{name} failed twice with the same error and no step in between; it is not started again"
            self._finish(RunOutcome(code=1, reason=f"{again}: {failure.error.sentence}", culprit=name, log=failure.log))
            return
        self._restart_or_fail(name, code)

    def _restart_or_fail(self, name: str, code: int) -> None:
        if code == USER_ERROR:
            self.fail(f"{name} refused to go on", code=USER_ERROR)
            return
        if self._last in self._left:
            self.fail(f"{self._last} was stopped before the run was over")
            return
        if monotonic() - self._started[name] > HEALTHY_S:
            self._restarts[name] = 0
        if self._restarts[name] >= self._limits.max_restarts:
            self.fail(f"{name} ended with code {code} after {self._restarts[name]} restarts (launch.max_restarts)")
            return
        delay_s = restart_delay_s(self._restarts[name])
        self._restarts[name] += 1
        count = f"restart {self._restarts[name]} of {self._limits.max_restarts}"
        self._note(f"{name} ended with code {code} at {datetime.now():%H:%M:%S}: {count} in {delay_s:.1f} s")
        self._timers.append(self._loop.call_later(delay_s, self._start, name))

    def _interrupted(self, signum: int) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._hurry.set()
        self._finish(RunOutcome(code=128 + signum, reason=f"stopped by {signal.Signals(signum).name}"))

    async def _stop_all(self) -> None:
        for timer in self._timers:
            timer.cancel()
        others = [name for name in self._running if name != self._last]
        await self._terminate(others, self._limits.leave_s)
        await self._terminate(list(self._running), self._limits.last_s)
        for name in self._running:
            self._processes[name].kill_group()
        await self._wait_for(list(self._running), 1.0, hurry=False)

    async def _terminate(self, names: list[str], timeout_s: float) -> None:
        for name in names:
            self._processes[name].terminate()
        await self._wait_for(names, timeout_s)

    async def _wait_for(self, names: list[str], timeout_s: float, *, hurry: bool = True) -> None:
        """Wait until all of them have ended, for `timeout_s` at most; a second interrupt ends the wait if `hurry` is set."""
        ends = [self._running[name] for name in names if name in self._running]
        waits: list[asyncio.Task[Any]] = [self._loop.create_task(_all_set(ends))]
        if hurry:
            waits.append(self._loop.create_task(self._hurry.wait()))
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()


async def _all_set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
