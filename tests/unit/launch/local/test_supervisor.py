"""The supervisor with real processes: small shell scripts in place of buffer, learner and actors.

A wait that should not happen is longer here than the time limit of a test: no test looks at a clock.
"""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prolong.common.config.sections import LaunchConfig
from prolong.launch.local import supervisor as module
from prolong.launch.local.process import ChildProcess
from prolong.launch.local.supervisor import Failure, RunOutcome, Supervisor, first_cause, restart_delay_s

from tests.support.runs import wait_until

# ends when the learner has done its last step
WHEN_DONE = "until test -f $DONE; do sleep 0.02; done"
NOTED_PID = "echo $$ > $FOLDER/$NAME.pid"


def reaped(name: str) -> str:
    """Waits until the supervisor has noticed the end of a process that noted its id."""
    pid = f"$FOLDER/{name}.pid"
    return f"until test -s {pid} && ! kill -0 $(cat {pid}) 2> /dev/null; do sleep 0.02; done"


class Case:
    """One supervised run of shell scripts in a folder. The leader must leave the file `done`; each note creates `noted`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = folder / "done"
        self.notes: list[str] = []

    def supervisor(self, max_restarts: int = 1, stop_s: float = 10.0, **scripts: str) -> Supervisor:
        env = {**os.environ, "DONE": str(self.done), "FOLDER": str(self.folder)}
        processes = [
            ChildProcess(name, ["sh", "-c", script], env=env | {"NAME": name}, log=self.folder / f"{name}.log")
            for name, script in scripts.items()
        ]
        return Supervisor(
            processes,
            leader="learner",
            last="buffer",
            limits=LaunchConfig(max_restarts=max_restarts, stop_s=stop_s),
            finished=self.done.exists,
            note=self.note,
            step=self.step,
        )

    def step(self) -> int:
        """The number of lines in the file `steps`."""
        steps = self.folder / "steps"
        return len(steps.read_text().splitlines()) if steps.exists() else 0

    def note(self, text: str) -> None:
        self.notes.append(text)
        (self.folder / "noted").touch()

    def run(self, **scripts: str) -> RunOutcome:
        return asyncio.run(self.supervisor(1, 10.0, **scripts).run())

    def leftovers(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if str(self.folder) in _environment(p).get("FOLDER", "")]

    def assert_nothing_left(self) -> None:
        """A killed process may take a moment to be gone."""
        wait_until("the end of everything that was started", lambda: not self.leftovers(), 60)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(module, "LEAVE_S", 0.3)
    return Case(tmp_path)


def test_the_leaders_good_end_is_the_runs_end_and_nothing_is_left(case: Case) -> None:
    outcome = case.run(buffer=WHEN_DONE, learner="touch $DONE", actor=WHEN_DONE)
    assert outcome == RunOutcome(code=0)
    case.assert_nothing_left()


def test_a_leader_that_leaves_no_summary_is_started_again(case: Case) -> None:
    outcome = case.run(
        buffer="sleep 1000", learner="test -f $FOLDER/once && touch $DONE; touch $FOLDER/once", actor="sleep 1000"
    )
    assert outcome.code == 0
    assert len(case.notes) == 1
    assert re.fullmatch(r"learner ended with code 0 at \d\d:\d\d:\d\d: restart 1 of 1 in 0.5 s", case.notes[0])


def test_a_leader_that_takes_long_to_end_after_a_finished_run_is_waited_for(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the others have left long before: the run is over, and no actor is missing."""
    monkeypatch.setattr(module, "LEAVE_S", 0.05)
    learner = "touch $DONE; until test -f $FOLDER/judged; do sleep 0.02; done"
    supervisor = case.supervisor(buffer=WHEN_DONE, learner=learner, actor=WHEN_DONE)
    finished = supervisor._finished

    def judge() -> bool:
        (case.folder / "judged").touch()
        return finished()

    monkeypatch.setattr(supervisor, "_finished", judge)
    assert asyncio.run(supervisor.run()) == RunOutcome(code=0)


def test_a_leader_that_hangs_after_a_finished_run_is_ended(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0.05)
    monkeypatch.setattr(module, "WRAP_UP_S", 0.05)
    assert case.run(buffer=WHEN_DONE, learner="touch $DONE; sleep 1000", actor=WHEN_DONE) == RunOutcome(code=0)
    case.assert_nothing_left()


def test_a_killed_process_is_restarted_and_the_run_ends_well(case: Case) -> None:
    actor = "test -f $FOLDER/once || { touch $FOLDER/once; kill -9 $$; }; touch $FOLDER/again; sleep 1000"
    outcome = case.run(
        buffer="sleep 1000", learner="until test -f $FOLDER/again; do sleep 0.05; done; touch $DONE", actor=actor
    )
    assert outcome.code == 0
    assert case.notes[0].startswith("actor ended with code 137 at ")


def test_giving_up_shows_the_log_of_the_process_that_failed_first(case: Case) -> None:
    learner = "until test -f $FOLDER/noted; do sleep 0.02; done; echo follow-up; exit 1"
    outcome = case.run(buffer="sleep 1000", learner=learner, actor="echo the cause; exit 3")
    assert outcome.code == 1
    assert outcome.culprit == "actor"
    assert outcome.log == ["the cause"]
    case.assert_nothing_left()


def test_a_mistake_of_the_user_is_not_retried(case: Case) -> None:
    outcome = case.run(buffer="echo port in use; exit 2", learner="sleep 1000", actor="sleep 1000")
    assert (outcome.code, outcome.culprit, outcome.log) == (2, "buffer", ["port in use"])
    assert case.notes == []


def test_the_learner_is_not_restarted_after_the_buffer_was_stopped(case: Case) -> None:
    outcome = case.run(buffer=f"{NOTED_PID}; exit 0", learner=f"{reaped('buffer')}; exit 1", actor="sleep 1000")
    assert outcome.code == 1
    assert outcome.reason == "buffer was stopped before the run was over"


def test_a_crash_loop_waits_longer_each_time_then_ends_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.05)
    crash = "echo x >> $FOLDER/starts; echo no luck; exit 3"
    outcome = asyncio.run(case.supervisor(max_restarts=3, buffer="sleep 1000", learner="sleep 1000", actor=crash).run())
    reason = "actor ended with code 3 after 3 restarts (launch.max_restarts)"
    assert outcome == RunOutcome(code=1, reason=reason, culprit="actor", log=["no luck"])
    assert (case.folder / "starts").read_text().split() == ["x"] * 4
    assert [note.partition(": ")[2] for note in case.notes] == [
        "restart 1 of 3 in 0.1 s", "restart 2 of 3 in 0.1 s", "restart 3 of 3 in 0.2 s"
    ]  # fmt: skip
    case.assert_nothing_left()


CRASH = f"exec {sys.executable} -c 'import os; n = os.getpid(); [0][n]'"
KILLED = f"exec {sys.executable} -c 'import os, sys; sys.stderr.write(\"IndexError: x\\n\"); os.kill(os.getpid(), 9)'"
CUT_OFF = f"exec {sys.executable} -c 'raise ConnectionResetError(104)'"


def test_a_program_that_dies_twice_of_the_same_error_is_not_started_a_third_time(case: Case) -> None:
    actor = f"echo x >> $FOLDER/starts; {CRASH}"
    outcome = asyncio.run(case.supervisor(max_restarts=9, buffer="sleep 1000", learner="sleep 1000", actor=actor).run())
    again = "actor failed twice with the same error and no step in between; it is not started again"
    assert outcome.reason == f"{again}: IndexError: list index out of range"
    assert (outcome.code, outcome.culprit) == (1, "actor")
    assert outcome.log[-1] == "IndexError: list index out of range"
    assert (case.folder / "starts").read_text().split() == ["x"] * 2
    case.assert_nothing_left()


ANOTHER = 'echo "ValueError: $(tr -d "\\n" < $FOLDER/starts)"; exit 3'


@pytest.mark.parametrize("end", [KILLED, CUT_OFF, ANOTHER, f"echo x >> $FOLDER/steps; {CRASH}"])
def test_what_may_be_over_by_the_next_start_is_started_again(case: Case, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A signal, a lost connection, another error each time, and the same error with a step in between."""
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    actor = f"echo x >> $FOLDER/starts; test $(cat $FOLDER/starts | wc -l) -ge 4 && sleep 1000; {end}"
    learner = "until test $(cat $FOLDER/starts | wc -l) -ge 4; do sleep 0.02; done; touch $DONE"
    outcome = asyncio.run(case.supervisor(max_restarts=3, buffer="sleep 1000", learner=learner, actor=actor).run())
    assert outcome == RunOutcome(code=0)
    assert len(case.notes) == 3


def test_the_wait_before_a_restart_doubles_up_to_a_bound() -> None:
    assert [restart_delay_s(restarts) for restarts in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert restart_delay_s(10**9) == 10.0


def test_a_process_is_restarted_as_often_as_is_allowed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.0)
    outcome = asyncio.run(case.supervisor(max_restarts=5, buffer="sleep 1000", learner="sleep 1000", actor="exit 1").run())
    assert outcome.reason == "actor ended with code 1 after 5 restarts (launch.max_restarts)"


def test_a_process_that_was_healthy_has_all_its_restarts_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "HEALTHY_S", 0.05)
    actor = "echo x >> $FOLDER/starts; sleep 0.1; exit 1"
    learner = "until test $(cat $FOLDER/starts | wc -l) -ge 4; do sleep 0.02; done; touch $DONE"
    assert case.run(buffer="sleep 1000", learner=learner, actor=actor) == RunOutcome(code=0)
    assert {note.partition(": ")[2] for note in case.notes} == {"restart 1 of 1 in 0.0 s"}


def test_a_process_that_cannot_be_started_again_ends_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    supervisor = case.supervisor(buffer="sleep 1000", learner="sleep 1000", actor="rm $0; exit 1")
    script = case.folder / "actor.sh"
    script.write_text("#!/bin/sh\nrm $0; exit 1\n")
    script.chmod(0o700)
    supervisor._processes["actor"].command = [str(script)]
    outcome = asyncio.run(supervisor.run())
    assert (outcome.code, outcome.culprit) == (1, "actor")
    assert outcome.reason.startswith("actor could not be started: ")
    case.assert_nothing_left()


def test_an_actor_that_was_asked_to_leave_stays_gone_while_another_works(case: Case) -> None:
    actors = {"a": "echo x >> $FOLDER/starts; exit 0", "b": "sleep 1000"}
    learner = "until test -f $FOLDER/starts; do sleep 0.02; done; sleep 0.6; touch $DONE"
    assert case.run(buffer="sleep 1000", learner=learner, **actors) == RunOutcome(code=0)
    assert (case.folder / "starts").read_text() == "x\n"
    assert case.notes == []


def test_the_last_actor_that_leaves_is_started_again_because_the_run_goes_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    learner = "until test -f $FOLDER/again; do sleep 0.02; done; touch $DONE"
    last = f"{reaped('first')}; test -f $FOLDER/once && {{ touch $FOLDER/again; {WHEN_DONE}; }}; touch $FOLDER/once"
    first = f"echo x >> $FOLDER/first; {NOTED_PID}; exit 0"
    assert case.run(buffer="sleep 1000", learner=learner, first=first, last=last) == RunOutcome(code=0)
    assert (case.folder / "first").read_text() == "x\n"
    assert len(case.notes) == 1
    assert case.notes[0].startswith("last ended with code 0 at ")


def test_actors_that_leave_again_and_again_end_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0.05)
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    outcome = case.run(buffer="sleep 1000", learner="sleep 1000", actor="echo asked to; exit 0")
    reason = "actor ended with code 0 after 1 restarts (launch.max_restarts)"
    assert outcome == RunOutcome(code=1, reason=reason, culprit="actor", log=["asked to"])


def interrupt(supervisor: Supervisor, *signals: tuple[float, int]) -> RunOutcome:
    """Run it, and send this process each signal at its time."""

    async def interrupted() -> RunOutcome:
        for at_s, signum in signals:
            asyncio.get_running_loop().call_later(at_s, os.kill, os.getpid(), signum)
        return await supervisor.run()

    return asyncio.run(interrupted())


FOREVER_S = 1000.0  # beyond the time limit of a test
DEAF = "trap '' TERM; sleep 1000 & wait"


def test_sigint_ends_everything_even_what_ignores_sigterm(case: Case) -> None:
    outcome = interrupt(case.supervisor(stop_s=0.5, buffer=DEAF, learner="sleep 1000", actor=DEAF), (0.2, signal.SIGINT))
    assert outcome == RunOutcome(code=130, reason="stopped by SIGINT")
    case.assert_nothing_left()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_the_run_too(case: Case, signum: signal.Signals) -> None:
    outcome = interrupt(case.supervisor(buffer="sleep 1000", learner="sleep 1000"), (0.1, signum))
    assert outcome == RunOutcome(code=128 + signum, reason=f"stopped by {signum.name}")
    case.assert_nothing_left()


def test_another_sigint_does_not_wait_for_what_ignores_sigterm(case: Case) -> None:
    supervisor = case.supervisor(stop_s=FOREVER_S, buffer=DEAF, learner=DEAF)
    outcome = interrupt(supervisor, (0.2, signal.SIGINT), (0.4, signal.SIGINT))
    assert outcome.code == 130
    case.assert_nothing_left()


def test_a_stopped_process_does_not_hold_up_the_end(case: Case) -> None:
    learner = "until test -f $FOLDER/stopped; do sleep 0.02; done; touch $DONE"
    actor = "touch $FOLDER/stopped; kill -STOP $$"
    outcome = asyncio.run(case.supervisor(stop_s=0.5, buffer=WHEN_DONE, learner=learner, actor=actor).run())
    assert outcome == RunOutcome(code=0)
    case.assert_nothing_left()


@pytest.mark.parametrize("stop_s", [1.0, 10.0, 600.0])
def test_all_waits_of_an_end_together_last_no_longer_than_the_time_to_stop(stop_s: float) -> None:
    limits = LaunchConfig(stop_s=stop_s)
    # the supervisor waits for what it kills too, for a second at most
    assert limits.leave_s + limits.last_s < stop_s
    assert limits.leave_s >= 0.6 * stop_s
    assert limits.last_s <= 2.0


def test_the_buffer_is_asked_to_leave_after_all_others(case: Case) -> None:
    order = "trap 'echo {0} >> $FOLDER/order; exit 0' TERM; touch $FOLDER/{0}; sleep 1000 & wait"
    scripts = {name: order.format(name) for name in ("buffer", "actor")}
    case.run(**scripts, learner="until test -f $FOLDER/buffer -a -f $FOLDER/actor; do sleep 0.02; done; exit 2")
    assert (case.folder / "order").read_text().split() == ["actor", "buffer"]


def test_nothing_survives_the_supervisors_death(case: Case) -> None:
    program = f"""
import asyncio
from pathlib import Path
from prolong.launch.local.process import ChildProcess
from prolong.common.config.sections import LaunchConfig
from prolong.launch.local.supervisor import Supervisor
folder = Path({str(case.folder)!r})
env = {{"FOLDER": str(folder), "PATH": {os.environ["PATH"]!r}}}
processes = [ChildProcess(name, ["sh", "-c", f"echo $$ > $FOLDER/{{name}}.pid; exec sleep 1000"], env=env, log=folder / name)
             for name in ("buffer", "learner")]
limits = LaunchConfig(max_restarts=0)
asyncio.run(Supervisor(processes, leader="learner", last="buffer", limits=limits, finished=bool, note=print, step=int).run())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    pids = [case.folder / f"{name}.pid" for name in ("buffer", "learner")]
    wait_until("both processes", lambda: all(path.exists() and path.read_text().strip() for path in pids), 60)
    children = [os.pidfd_open(int(path.read_text())) for path in pids]
    supervisor.kill()
    supervisor.wait(60)
    for child in children:
        assert select.select([child], [], [], 60.0)[0]
        os.close(child)


def test_one_cause_explains_the_failures_that_follow_it_closely() -> None:
    deaths = [(0, "early"), (100, "cause"), (110, "b"), (165, "c")]
    failures = [Failure(at=at, name=name, code=1, log=[]) for at, name in deaths]
    assert first_cause(failures).name == "cause"
