"""Inside a Slurm job: the steps of the supervisor, this node's address, and an actor that follows the run's buffer."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.errors import ProlongError, UserError
from prolong.launch.jobs import slurm_job
from prolong.launch.jobs.held_task import MODULE as HELD_TASK
from prolong.launch.recipes import compose

from tests.support.runs import wait_until

# writes its last argument, the address, to the file that is its first one; the exit code is its second one
ACTOR = "import sys; open(sys.argv[1], 'a').write(sys.argv[-1] + '\\n'); raise SystemExit(int(sys.argv[2]))"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    cfg = compose("demo", [f"run.root={tmp_path}", "run.name=mine", "run.steps=4", "launch.max_restarts=1"])
    path = tmp_path / "config.yaml"
    save_config(cfg, path)
    run_paths(cfg).logs.mkdir(parents=True)
    return path


@pytest.fixture(autouse=True)
def handler_of_sigusr1() -> Iterator[None]:
    """Gives the process that runs the tests its handler back: those of a job stay until the job ends."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def paths_of(config: Path) -> RunPaths:
    return RunPaths(config.parent / "mine")


def set_address(config: Path, address: str) -> None:
    paths_of(config).buffer.write_text(json.dumps({"address": address, "pid": 1}))


def end_run(config: Path, steps: int) -> None:
    paths_of(config).summary.write_text(json.dumps({"steps": steps}))


def test_processes_of_srun_are_held_and_the_buffer_is_not(config: Path) -> None:
    lines = ["buffer: prolong buffer 'run.name=a b'\n", "\n", f"learner: srun python -m {HELD_TASK} 10 prolong learner\n"]
    buffer, learner = slurm_job._steps(paths_of(config), lines)
    assert (buffer.name, buffer.command, buffer.held) == ("buffer", ["prolong", "buffer", "run.name=a b"], False)
    assert (learner.name, learner.held, learner.log.name) == ("learner", True, "learner.log")


def test_a_job_that_comes_back_to_a_finished_run_ends(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end_run(config, 4)
    assert slurm_job.supervise_steps(config, ["buffer: false"]) == 0
    assert "holds the finished run" in capsys.readouterr().out


def test_supervise_reports_the_first_to_fail_and_how_to_go_on(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waits = f"{sys.executable} -c 'import signal; signal.pause()'"
    assert slurm_job.supervise_steps(config, [f"buffer: {waits}", "learner: sh -c 'echo no model; exit 2'"]) == 2
    captured = capsys.readouterr()
    assert "  | no model" in captured.err
    assert captured.out == f"resume with: sbatch {config.parent}/job.sbatch\n"


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> Path:
    """A program of that name, which prints `output`; returns the file to which it writes its arguments."""
    program, calls = folder / "scontrol", folder / "calls"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {calls}\necho '{output}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


def test_the_address_is_that_of_the_node_in_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scontrol(tmp_path, monkeypatch, "NodeName=n7 Arch=x86_64 NodeAddr=10.1.2.3 NodeHostName=n7")
    assert slurm_job.own_address({"SLURMD_NODENAME": "n7"}) == "10.1.2.3"
    assert calls.read_text() == "show node --oneliner n7\n"


def test_a_name_that_leads_to_loopback_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol(tmp_path, monkeypatch, "NodeName=n7 NodeAddr=127.0.1.1")
    with pytest.raises(UserError, match=r"give buffer.address=tcp://HOST:PORT"):
        slurm_job.own_address({"SLURMD_NODENAME": "n7"})


def test_an_actor_starts_again_at_the_next_address_until_the_run_has_ended(config: Path, tmp_path: Path) -> None:
    """Its exit code 0 means that this buffer has gone, which may come back elsewhere."""
    seen = tmp_path / "seen"
    set_address(config, "tcp://10.0.0.1:1")
    worker = threading.Thread(target=_move_and_end, args=(config, seen), daemon=True)
    worker.start()
    assert slurm_job.join_run(config, [sys.executable, "-c", ACTOR, str(seen), "0"]) == 0
    worker.join(60)
    addresses = seen.read_text().splitlines()
    assert addresses[0] == "buffer.address=tcp://10.0.0.1:1"
    assert addresses[-1] == "buffer.address=tcp://10.0.0.2:1"


def _move_and_end(config: Path, seen: Path) -> None:
    wait_until("the actor at its first address", seen.exists, 60)
    set_address(config, "tcp://10.0.0.2:1")
    wait_until("the actor at its next address", lambda: "10.0.0.2" in seen.read_text(), 60)
    end_run(config, 4)


def test_an_actor_that_keeps_failing_is_given_up(config: Path, tmp_path: Path) -> None:
    set_address(config, "tcp://10.0.0.1:1")
    with pytest.raises(ProlongError, match="failed 2 times in a row, the last time with exit code 3"):
        slurm_job.join_run(config, [sys.executable, "-c", ACTOR, str(tmp_path / "seen"), "3"])


def test_a_mistake_of_the_user_is_not_tried_again(config: Path, tmp_path: Path) -> None:
    set_address(config, "tcp://10.0.0.1:1")
    assert slurm_job.join_run(config, [sys.executable, "-c", ACTOR, str(tmp_path / "seen"), "2"]) == 2
    assert len((tmp_path / "seen").read_text().splitlines()) == 1


def test_an_actor_without_a_buffer_does_not_hold_its_node_for_ever(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_job, "JOIN_S", 0.0)
    with pytest.raises(ProlongError, match="no buffer in"):
        slurm_job.join_run(config, ["false"])


def test_before_its_time_is_over_an_actor_is_asked_to_leave_and_its_job_is_requeued(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = scontrol(tmp_path, monkeypatch, "")
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    set_address(config, "tcp://10.0.0.1:1")
    # the signal comes when the actor is there, which leaves by SIGTERM
    script = f"trap 'echo left > {tmp_path}/left; exit 0' TERM; kill -USR1 $PPID; while :; do sleep 0.05; done"
    assert slurm_job.join_run(config, ["sh", "-c", script]) == 0
    assert (tmp_path / "left").exists()
    assert calls.read_text() == "requeue 31\n"
