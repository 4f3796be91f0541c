"""`prolong launch slurm` on a cluster of Slurm's own daemons: one job of several components, actors that join, preemption."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.buffer.journal.journal import read_journal

from tests.support.runs import SMALL, Run, assert_balanced
from tests.support.slurm import SlurmCluster, slurm_cluster, why_no_slurm

pytestmark = [pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm() or "Slurm runs here"), pytest.mark.slow]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SlurmCluster]:
    (tmp_path / "slurm").mkdir()
    with slurm_cluster(tmp_path / "slurm", "n1", "n2", "n3") as cluster:
        yield cluster


class LaunchedRun:
    """A run that `prolong launch slurm` starts at the login host."""

    def __init__(self, cluster: SlurmCluster, run: Run) -> None:
        self.cluster, self.run = cluster, run

    def launch(self, *arguments: str) -> str:
        """Renders the scripts, and again with other settings while the job waits in the queue."""
        named = [f"run.name={self.run.name}", f"run.root={self.run.root}", *self.run.overrides, *arguments]
        placed = ["learner:nodelist=n1", "actors:nodelist=n2", "cpus-per-task=3", "mem=500"]
        return self.cluster.command(
            sys.executable, "-m", "prolong.launch.cli", "launch", "slurm", "demo", *named, *(f"--set={each}" for each in placed)
        )

    def state(self, job: str) -> str:
        return self.cluster.command("squeue", "--noheader", "--states=all", f"--job={job}", "--format=%T").split()[0]

    def step(self) -> int:
        records = self.run.metrics()
        return int(records[-1]["step"]) if records else 0

    def wait_for(self, job: str, state: str, timeout_s: float = 90) -> None:
        self.run.wait(f"job {job} to be {state}", lambda: self.state(job) == state, timeout_s)

    def output(self) -> str:
        logs = sorted((self.run.folder / "launch").glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in logs)


@pytest.fixture
def launched(cluster: SlurmCluster, tmp_path: Path, demo_model: Path) -> LaunchedRun:
    data = [f"model.path={demo_model}", f"data.train=[{{file: {demo_model}/train.jsonl}}]", "data.heldout=[]"]
    run = Run(
        tmp_path, "sched", [*SMALL, *data, "model.device=cpu", "run.steps=100000", "launch.actors=2", "buffer.silence_s=5"]
    )
    return LaunchedRun(cluster, run)


@pytest.mark.timeout(500)
def test_a_job_is_requeued_twice_and_goes_on_to_its_end(cluster: SlurmCluster, launched: LaunchedRun) -> None:
    """Once in good order, when its time is over, and once by a preemption, in which every process gets SIGTERM at once."""
    run = launched.run
    launched.launch("--submit")
    job = "1"
    run.wait_for_step(2)
    peers = run.status(within=cluster.hosts.within("n3"))["peers"]
    assert peers.keys() >= {"actors-0", "actors-1"}

    # as Slurm does before the time limit
    cluster.command("scancel", "--batch", "--signal=USR1", job)
    launched.wait_for(job, "PENDING")
    assert not (run.folder / "buffer.json").exists()
    assert "SIGUSR1: the job's time is over" in launched.output()
    for name in ("actors-0", "actors-1"):
        # the buffer was still there: what was in flight has been handed over to others, or ended
        assert "tickets in flight have" in (log := (run.folder / "logs" / f"{name}.log").read_text()), log
        assert "Traceback" not in log
    reached = launched.step()
    assert reached >= 2
    cluster.start_again(job)

    joined = cluster.command("sbatch", "--parsable", "--nodelist=n3", str(run.folder / "launch" / "join-actors.sbatch")).strip()
    run.wait("steps after the first requeue", lambda: launched.step() > reached + 1, 150)
    joiner = f"actors-{joined}"
    run.wait("the third actor", lambda: run.status(within=cluster.hosts.within("n3"))["peers"].get(joiner, {}), 100)

    urgent = cluster.command(
        "sbatch", "--parsable", "--partition=high", "--nodelist=n2", "--exclusive", "--wrap=sleep 300"
    ).strip()
    launched.wait_for(urgent, "RUNNING")
    launched.wait_for(job, "PENDING")
    last = launched.step() + 6
    launched.launch(f"run.steps={last}")
    cluster.command("scancel", urgent)
    cluster.start_again(job)
    for each in (job, joined):
        launched.wait_for(each, "COMPLETED", 200)

    steps = [record["step"] for record in run.metrics()]
    assert steps == list(range(1, last + 1))
    assert_balanced(run.summary(), last, batch_groups=4)
    journal = read_journal(run.folder / "journal")
    actors = {group.actor for version in journal.versions() if (batch := journal.batch(version)) for group in batch.groups}
    journal.close()
    assert actors <= {"actors-0", "actors-1", joiner}
    print(actors, launched.output())


def _later(launched: LaunchedRun, cluster: SlurmCluster) -> None:
    printed = launched.launch()
    folder = launched.run.folder / "launch"
    secrets = [path for path in folder.rglob("*") if path.suffix == ".key"]
    assert {path.parent.name for path in secrets} == {"keys", "learner", "actors"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)
    scripts = "".join(path.read_text() for path in folder.glob("*.sbatch"))
    for secret in secrets:
        assert secret.read_text().strip() not in scripts + printed
