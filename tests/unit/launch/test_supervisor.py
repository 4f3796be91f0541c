"""The supervisor with real processes: small shell scripts in the place of buffer, learner and actors."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import psutil
import pytest
from prolong.launch import supervisor as module
from prolong.launch.process import Process
from prolong.launch.supervisor import Failure, Outcome, Supervisor, first_cause


class Case:
    """One supervised run of shell scripts in a folder; `done` is what the leader must leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = folder / "done"
        self.notes: list[str] = []

    def supervisor(self, max_restarts: int = 1, **scripts: str) -> Supervisor:
        env = {**os.environ, "DONE": str(self.done), "FOLDER": str(self.folder)}
        processes = [
            Process(name, ["sh", "-c", script], env=env, log=self.folder / f"{name}.log") for name, script in scripts.items()
        ]
        return Supervisor(
            processes,
            leader="learner",
            last="buffer",
            max_restarts=max_restarts,
            finished=self.done.exists,
            note=self.notes.append,
        )

    def run(self, **scripts: str) -> Outcome:
        return asyncio.run(self.supervisor(**scripts).run())

    def leftovers(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if str(self.folder) in _environment(p).get("FOLDER", "")]


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
    outcome = case.run(buffer="sleep 0.2", learner="touch $DONE", actor="sleep 0.2")
    assert outcome == Outcome(code=0)
    assert not case.leftovers()


def test_a_leader_that_leaves_no_summary_is_started_again(case: Case) -> None:
    outcome = case.run(buffer="sleep 9", learner="test -f $FOLDER/once && touch $DONE; touch $FOLDER/once", actor="exit 0")
    assert outcome.code == 0
    assert len(case.notes) == 1
    assert re.fullmatch(r"learner ended with code 0 at \d\d:\d\d:\d\d: restart 1 of 1 in 0.5 s", case.notes[0])


def test_a_killed_process_is_restarted_and_the_run_ends_well(case: Case) -> None:
    actor = "test -f $FOLDER/once || { touch $FOLDER/once; kill -9 $$; }; touch $FOLDER/again; sleep 9"
    outcome = case.run(buffer="sleep 9", learner="until test -f $FOLDER/again; do sleep 0.05; done; touch $DONE", actor=actor)
    assert outcome.code == 0
    assert case.notes[0].startswith("actor ended with code 137 at ")


def test_giving_up_shows_the_log_of_the_process_that_failed_first(case: Case) -> None:
    outcome = case.run(buffer="sleep 9", learner="sleep 0.1; echo follow-up; exit 1", actor="echo the cause; exit 3")
    assert outcome.code == 1
    assert outcome.culprit == "actor"
    assert outcome.log == ["the cause"]
    assert not case.leftovers()


def test_a_mistake_of_the_user_is_not_retried(case: Case) -> None:
    outcome = case.run(buffer="echo port in use; exit 2", learner="sleep 9", actor="sleep 9")
    assert (outcome.code, outcome.culprit, outcome.log) == (2, "buffer", ["port in use"])
    assert case.notes == []


def test_the_learner_is_not_restarted_after_the_buffer_was_stopped(case: Case) -> None:
    outcome = case.run(buffer="exit 0", learner="sleep 0.2; exit 1", actor="sleep 9")
    assert outcome.code == 1
    assert outcome.reason == "buffer was stopped before the run was over"


def test_sigint_ends_everything_even_what_ignores_sigterm(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TERMINATE_S", 0.2)
    monkeypatch.setattr(module, "LAST_S", 0.2)
    deaf = "trap '' TERM; sleep 30 & wait"
    supervisor = case.supervisor(buffer=deaf, learner="sleep 30", actor=deaf)

    async def interrupted() -> Outcome:
        asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
        return await supervisor.run()

    started = monotonic()
    outcome = asyncio.run(interrupted())
    assert outcome == Outcome(code=130, reason="stopped by SIGINT")
    assert monotonic() - started < 3
    assert not case.leftovers()


def test_the_buffer_is_asked_to_leave_after_all_others(case: Case) -> None:
    order = "trap 'echo {0} >> $FOLDER/order; exit 0' TERM; touch $FOLDER/{0}; sleep 9 & wait"
    scripts = {name: order.format(name) for name in ("buffer", "actor")}
    case.run(**scripts, learner="until test -f $FOLDER/buffer -a -f $FOLDER/actor; do sleep 0.02; done; exit 2")
    assert (case.folder / "order").read_text().split() == ["actor", "buffer"]


def test_nothing_survives_the_supervisors_death(case: Case) -> None:
    program = f"""
import asyncio
from pathlib import Path
from prolong.launch.process import Process
from prolong.launch.supervisor import Supervisor
folder = Path({str(case.folder)!r})
env = {{"FOLDER": str(folder), "PATH": {os.environ["PATH"]!r}}}
processes = [Process(name, ["sh", "-c", f"echo $$ > $FOLDER/{{name}}.pid; exec sleep 30"], env=env, log=folder / name)
             for name in ("buffer", "learner")]
asyncio.run(Supervisor(processes, leader="learner", last="buffer", max_restarts=0, finished=bool, note=print).run())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    pids = [case.folder / f"{name}.pid" for name in ("buffer", "learner")]
    deadline = monotonic() + 10
    while not all(path.exists() and path.read_text().strip() for path in pids):
        assert monotonic() < deadline
    children = [psutil.Process(int(path.read_text())) for path in pids]
    supervisor.kill()
    supervisor.wait(5)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_one_cause_explains_the_failures_that_follow_it_closely() -> None:
    deaths = [(0, "early"), (100, "cause"), (110, "b"), (165, "c")]
    failures = [Failure(at=at, name=name, code=1, log=[]) for at, name in deaths]
    assert first_cause(failures).name == "cause"
