"""`prolong launch slurm` on a cluster of Slurm's own daemons: one job of several components, actors that join, preemption."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.buffer.journal.journal import read_journal

from tests.support.runs import SMALL, Run, assert_balanced
from tests.support.slurm import SlurmCluster, slurm_cluster, why_no_slurm

pytestmark = [pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm() or "Slurm runs here"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
SOAK = bool(os.environ.get("PROLONG_SOAK"))
PLACED = ("--set=learner:nodelist=n1", "--set=actors:nodelist=n2", "--set=cpus-per-task=3")
ROLES = ("buffer", "learner", "actor")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), "n1", "n2", "n3") as cluster:
        yield cluster


class LaunchedRun:
    """A run that `prolong launch slurm` starts at the login host."""

    def __init__(self, cluster: SlurmCluster, run: Run) -> None:
        self.cluster, self.run = cluster, run

    @property
    def scripts(self) -> Path:
        return self.run.folder / "launch"

    def launch(self, *arguments: str) -> str:
        """Render the scripts; again, with other settings, while the job waits in the queue."""
        named = [f"run.name={self.run.name}", f"run.root={self.run.root}", *self.run.overrides, *arguments]
        return self.cluster.command(
            sys.executable, "-m", "prolong.launch.cli", "launch", "slurm", "demo", *named, "--set=mem=500"
        )

    def state(self, job: str) -> str:
        """Of the job's first component; COMPLETING as long as another one is."""
        listed = self.cluster.command("squeue", "--noheader", "--states=all", f"--job={job}", "--format=%A %T").split()
        states = dict(zip(listed[::2], listed[1::2], strict=True))
        return "COMPLETING" if "COMPLETING" in states.values() else states[job]

    def step(self) -> int:
        records = self.run.metrics()
        return int(records[-1]["step"]) if records else 0

    def peers(self) -> dict:
        return self.run.status(within=self.cluster.hosts.within("n3"))["peers"]

    def wait_for(self, job: str, state: str, timeout_s: float = 300) -> None:
        self.run.wait(f"job {job} to be {state}", lambda: self.state(job) == state, timeout_s)

    def output(self) -> str:
        logs = sorted(self.scripts.glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in logs)


@pytest.fixture
def launched(cluster: SlurmCluster, tmp_path: Path, demo_model: Path) -> Iterator[LaunchedRun]:
    data = [f"model.path={demo_model}", f"data.train=[{{file: {demo_model}/train.jsonl}}]", "data.heldout=[]"]
    run = Run(tmp_path, "run", [*SMALL, *data, "run.steps=100000", "buffer.silence_s=5"])
    yield LaunchedRun(cluster, run)
    run.kill_all()


@pytest.mark.timeout(1500)
def test_a_job_is_preempted_and_goes_on_to_its_end(cluster: SlurmCluster, launched: LaunchedRun) -> None:
    """In good order, with time to save and to hand over; an actor of another job follows the buffer. `make soak` also
    requeues the job at once, with a SIGTERM for every process."""
    run, job = launched.run, "1"
    launched.launch("--submit", *PLACED)
    joined = cluster.command("sbatch", "--parsable", "--nodelist=n3", str(launched.scripts / "join-actors.sbatch")).strip()
    joiner = f"actors-{joined}"
    run.wait_for_step(2, 300)
    run.wait("work of the actor that joined", lambda: launched.peers().get(joiner, {}).get("generated_rollouts", 0) > 0, 300)
    run.wait("the actor of the job itself", lambda: "actors-0" in launched.peers(), 300)

    urgent = cluster.command(
        "sbatch", "--parsable", "--partition=high", "--nodelist=n2", "--exclusive", "--wrap=sleep 600", "--output=/dev/null"
    ).strip()
    launched.wait_for(urgent, "RUNNING")
    launched.wait_for(job, "PENDING")
    assert not (run.folder / "buffer.json").exists()
    assert "SIGUSR1: the job's time is over" in launched.output()
    log = (run.folder / "logs" / "actors-0.log").read_text()
    # the buffer was still there: what was in flight ended, or was handed over
    assert "SIGTERM: " in log
    assert "Traceback" not in log
    assert launched.step() >= 2
    if SOAK:
        cluster.command("scancel", urgent)
        cluster.start_again(job)
        before = launched.step()
        run.wait("steps after the preemption", lambda: launched.step() > before, 300)
        cluster.command("scontrol", "requeue", job)
        launched.wait_for(job, "PENDING")

    last = launched.step() + 4
    launched.launch(f"run.steps={last}", *PLACED)
    cluster.command("scancel", urgent)
    cluster.start_again(job)
    for each in (job, joined):
        launched.wait_for(each, "COMPLETED", 400)
    assert [record["step"] for record in run.metrics()] == list(range(1, last + 1))
    assert_balanced(run.summary(), last, batch_groups=4)
    journal = read_journal(run.folder / "journal")
    actors = {group.actor for version in journal.versions() if (batch := journal.batch(version)) for group in batch.groups}
    journal.close()
    assert actors <= {"actors-0", joiner}
    assert not run.leftovers()


@pytest.mark.timeout(1000)
def test_every_process_gets_its_node_its_gpus_and_its_keys(
    cluster: SlurmCluster, launched: LaunchedRun, tmp_path: Path
) -> None:
    """A learner of two nodes with two ranks each, and two actors of two GPUs that share a node; all leave when it is time."""
    pool = "pools={big: {count: 2, actor: {engine: vllm, tensor_parallel: 2}}}"
    launched.launch(
        "model.device=auto", "launch.learner_ranks=2", pool, "--learner-nodes=2", "--set=cpus-per-task=3", "--set=big:nodes=1"
    )
    script = launched.scripts / "job.sbatch"
    stand_in = f"{ROOT}/tests/support/placed_process.py {tmp_path}"
    script.write_text(script.read_text().replace("-m prolong.launch.cli", stand_in))
    job = cluster.command("sbatch", "--parsable", str(script)).strip()
    launched.run.wait("all processes", lambda: len(list(tmp_path.glob("*.json"))) == 5, 300)
    assert "big-0 ended with code 3" in launched.output()
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    by_role = {role: sorted((each for each in seen if each["role"] == role), key=lambda each: each["name"]) for role in ROLES}
    (buffer,), learners, actors = by_role["buffer"], by_role["learner"], by_role["actor"]
    address = f"buffer.address=tcp://{cluster.hosts.address(buffer['node'])}:{10_000 + int(job)}"
    assert all(address in each["arguments"] for each in seen)
    assert [each["name"] for each in actors] == ["big-0", "big-1"]
    assert len({each["node"] for each in actors}) == 1
    assert sorted(gpu for each in actors for gpu in each["gpus"].split(",")) == ["0", "1", "2", "3"]
    assert len({each["node"] for each in learners}) == 2
    assert [each["gpus"] for each in learners] == ["0,1", "0,1"]
    # node 0 of the learner is the buffer's, and the others find the way to it
    assert {each["nodes"]["index"]: each["nodes"]["host"] for each in learners} == dict.fromkeys((0, 1), buffer["node"])
    assert all(each["towards"] == cluster.hosts.address(each["node"]) for each in learners)
    keys = {each["role"]: [word for word in each["arguments"] if word.startswith("buffer.keys=")] for each in seen}
    folder = f"buffer.keys={launched.scripts}/keys"
    assert keys == {"buffer": [folder], "learner": [f"{folder}/hosts/learner"], "actor": [f"{folder}/hosts/big"]}

    # the request to leave reaches both nodes of the learner, and the buffer when the others have gone
    cluster.command("scancel", "--batch", "--signal=USR1", job)
    launched.wait_for(job, "PENDING")
    left = {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*.left")}
    assert left.keys() == {path.stem for path in tmp_path.glob("*.json")}
    assert max(left, key=left.__getitem__) == f"buffer-buffer-{buffer['node']}"
    (tmp_path / "end").touch()
    cluster.start_again(job)
    launched.wait_for(job, "COMPLETED")
