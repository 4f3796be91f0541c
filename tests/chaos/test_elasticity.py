"""Processes that join, leave, hang and come back in the middle of a run that is started by hand, as on a cluster."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from prolong.common.config.run_files import run_paths
from prolong.common.messages import Status
from prolong.common.metrics import read_metrics

from tests.support.buffer_process import BufferProcess
from tests.support.learner_process import end_of, learner_under_torchrun, make_config, wait_for_steps
from tests.support.runs import SMALL, Run
from tests.support.scripted_actor import ScriptedActor
from tests.support.storm import ON_COMMAND_LINE, children
from tests.support.tiny_model import make_tiny_model
from tests.support.watched_run import BATCH, WatchedRun

SILENCE_S = 4.0  # no process is taken for dead that has to wait for a busy machine
GRACE_S = 6.0
SOON_S = 90.0  # for what happens at once on a machine that is not busy


class Cluster(WatchedRun):
    """A long run with its buffer, learner and actors, looked at through the buffer's Status."""

    def __init__(self, root: Path, model: Path) -> None:
        overrides = [*SMALL, f"model.path={model}", f"buffer.silence_s={SILENCE_S}"]
        overrides += [f"data.train=[{{file: {model}/train.jsonl}}]", "data.heldout=[]", f"actor.grace_s={GRACE_S}"]
        overrides += ["run.steps=100000", "checkpoint.every=100000", "weights.timeout_s=6", "actor.capacity=24"]
        # a pool must not end workers that were stopped for a while
        overrides += ["verifiers.timeout_s=300"]
        super().__init__(root, "elastic", *overrides)

    def wait_for_progress(self, steps: int = 3) -> None:
        version = self.status().version
        self.run.wait("the run to go on", lambda: self.status().version >= version + steps, SOON_S)

    def start_actor(self, name: str) -> subprocess.Popen:
        return self.run.start("actor", "--name", name)


@pytest.fixture
def cluster(tmp_path: Path, demo_model: Path):
    cluster = Cluster(tmp_path, demo_model)
    yield cluster
    cluster.run.kill_all()


def stop_all(process: subprocess.Popen, signum: int) -> None:
    """SIGSTOP or SIGCONT to an actor with its engine and verifiers."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.send_signal(signum)


def joins(cluster: Cluster, name: str) -> subprocess.Popen:
    """An actor joins: it gets work, and none before its first weights."""
    process = cluster.start_actor(name)

    def works() -> bool:
        about = cluster.peer(name)
        assert about.get("state", "") == "ready" or not about.get("leases"), about
        return float(about.get("generated_rollouts", 0.0)) > 0

    cluster.run.wait(f"groups of {name}", works, 150)
    return process


def hang_at_work(cluster: Cluster, name: str, process: subprocess.Popen) -> Status:
    """SIGSTOP to an actor that holds tickets. The buffer's status, once it has all that the actor had sent before."""

    def silent() -> Status | None:
        status = cluster.status()
        return status if float(status.peers.get(name, {}).get("silence_s", 0.0)) > 0.5 else None

    def hung() -> Status | None:
        cluster.run.wait(f"tickets for {name}", lambda: cluster.number(name, "leases") > 0, SOON_S)
        stop_all(process, signal.SIGSTOP)
        held = cluster.run.wait("its silence", silent, SOON_S)
        assert held is not None
        if held.peers[name]["leases"]:
            return held
        stop_all(process, signal.SIGCONT)
        return None

    held = cluster.run.wait(f"{name} to hang with tickets", hung, SOON_S)
    assert held is not None
    return held


def hangs_and_comes_back(cluster: Cluster, name: str, process: subprocess.Popen) -> None:
    """SIGSTOP: its tickets are reissued, the run goes on. SIGCONT: it works again, its groups from before are refused."""
    held = hang_at_work(cluster, name, process)
    leases = float(held.peers[name]["leases"])
    cluster.run.wait("the buffer to give it up", lambda: not cluster.peer(name), SOON_S)
    given_up = cluster.status().counters
    assert given_up["buffer/lost_leases"] - held.counters.get("buffer/lost_leases", 0) == leases
    cluster.wait_for_progress()
    stop_all(process, signal.SIGCONT)

    def refused() -> int:
        return cluster.status().counters.get("buffer/duplicates", 0) - given_up.get("buffer/duplicates", 0)

    cluster.run.wait("its groups to be refused", lambda: refused() >= leases, SOON_S)
    assert refused() == leases
    made = cluster.number(name, "generated_rollouts")
    cluster.run.wait("new groups", lambda: cluster.number(name, "generated_rollouts") > made + 4 * BATCH, SOON_S)


def stop_verifiers_at_work(cluster: Cluster, name: str, process: subprocess.Popen) -> list[psutil.Process]:
    """SIGSTOP to the verifiers alone, while the actor holds tickets: those cannot end. Groups that were ready have half a
    second to leave the actor."""
    verifiers = children(psutil.Process(process.pid), ON_COMMAND_LINE["verifier"])
    assert verifiers

    def holds_some() -> bool:
        for verifier in verifiers:
            verifier.send_signal(signal.SIGSTOP)
        select.select([], [], [], 0.5)
        if cluster.number(name, "leases"):
            return True
        for verifier in verifiers:
            verifier.send_signal(signal.SIGCONT)
        return False

    cluster.run.wait(f"tickets at {name}", holds_some, SOON_S)
    return verifiers


def leaves(cluster: Cluster, process: subprocess.Popen) -> tuple[Status, Status]:
    """SIGTERM: it ends well, whatever it waits for. The buffer's status before and after."""
    before = cluster.status()
    process.send_signal(signal.SIGTERM)
    assert cluster.run.ended(process, SOON_S) == 0, cluster.run.output()
    return before, cluster.status()


def lost(before: Status, after: Status) -> tuple[int, int]:
    """Tickets that became `failed`, and how many of them were handed back."""
    returned = after.counters.get("buffer/returned", 0) - before.counters.get("buffer/returned", 0)
    return after.ledger["failed"] - before.ledger["failed"], returned


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_actors_join_hang_come_back_and_leave_while_the_run_goes_on(cluster: Cluster) -> None:
    for command in ("buffer", "learner"):
        cluster.run.start(command)
    first = cluster.start_actor("first")
    cluster.run.wait_for_step(3)
    second = joins(cluster, "second")
    hangs_and_comes_back(cluster, "second", second)

    before, after = leaves(cluster, second)
    assert lost(before, after) == (0, 0)  # groups end within the grace period, or are handed over
    cluster.run.wait("it to be forgotten", lambda: not cluster.peer("second"), SOON_S)
    counters = cluster.status().counters
    assert counters["buffer/left_actors"] == 1
    assert counters["buffer/lost_actors"] == 1  # that was its silence
    cluster.wait_for_progress()

    verifiers = stop_verifiers_at_work(cluster, "first", first)
    before, after = leaves(cluster, first)
    assert lost(before, after) == (0, 0)
    assert after.ledger["issued"] > 0, "nothing was handed over"
    assert after.ledger["leased"] == 0
    _, alive = psutil.wait_procs(verifiers, timeout=SOON_S)
    assert not alive
    joins(cluster, "third")

    def settled() -> bool:
        counted = cluster.status().counters
        tickets, going_on, tokens, saved = (
            counted.get(f"buffer/{name}", 0) for name in ("handed_over", "continued", "handed_over_tokens", "saved_tokens")
        )
        return going_on == tickets and saved == tokens > 0

    cluster.run.wait("it to go on with them, and every token to be saved", settled, SOON_S)
    cluster.wait_for_progress()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_preempted_learner_saves_says_how_to_go_on_and_goes_on(cluster: Cluster) -> None:
    cluster.run.start("buffer")
    process = cluster.run.start("learner")
    cluster.start_actor("first")
    cluster.run.wait_for_step(3)
    process.send_signal(signal.SIGTERM)  # to torchrun's agent, as Slurm and Kubernetes would
    assert cluster.run.ended(process, SOON_S) == 0, cluster.run.output()
    log = (cluster.run.root / "learner-1.log").read_text()
    hint = re.search(r"version (\d+) is saved; go on with: prolong learner --recipe (\S+)", log)
    assert hint, log
    version, recipe = int(hint[1]), hint[2]
    assert (cluster.run.folder / "checkpoints" / f"step-{version:08d}").is_dir()
    again = Run(cluster.run.root, "elastic", [], recipe=recipe, processes=cluster.run.processes)
    again.start("learner")
    cluster.run.wait_for_step(version + 3)
    steps = [record["step"] for record in cluster.run.metrics()]
    assert steps == list(range(1, len(steps) + 1))
    assert cluster.status().generation == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_signal_to_one_rank_of_two_stops_both_at_the_same_step(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, steps=100_000)
    cfg.checkpoint.every = 100_000
    with BufferProcess(cfg) as buffer, learner_under_torchrun(cfg, buffer.address, 2) as agent:
        actor = ScriptedActor(cfg, buffer.address)
        actor.start()
        wait_for_steps(cfg, 2)
        ranks = {rank.environ()["RANK"]: rank for rank in psutil.Process(agent.pid).children()}
        ranks["1"].send_signal(signal.SIGTERM)
        errors = end_of(agent)
        actor.leave.set()
        actor.join(SOON_S)
    (checkpoint,) = run_paths(cfg).checkpoints.iterdir()
    assert checkpoint.name == f"step-{read_metrics(run_paths(cfg).metrics)[-1]['step']:08d}"
    assert "is saved; go on with: prolong learner --recipe" in errors


@pytest.mark.timeout(400)
def test_a_learner_that_waits_for_the_buffers_first_answer_leaves_at_once(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", tied=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(150)
        settings = [f"model.path={model}", "model.max_context=128", "sampling.max_tokens=64", "launch.learner_ranks=2"]
        run = Run(tmp_path, "waits", [*settings, f"buffer.address=tcp://127.0.0.1:{silent.getsockname()[1]}"], recipe="default")
        process = run.start("learner")
        try:
            silent.accept()[0].close()  # it is on the line
            process.send_signal(signal.SIGTERM)
            assert run.ended(process, SOON_S) == 0, run.output()
            assert "Traceback" not in run.output()
            assert "nothing is lost; go on with: prolong learner --recipe" in run.output()
            run.wait("nothing to be left running", lambda: not run.leftovers(), SOON_S)
        finally:
            run.kill_all()


@pytest.mark.timeout(400)
def test_a_learner_that_waits_for_a_batch_saves_and_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a trace in the temporary directory, where torchrun would leave a folder of logs."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    cfg = make_config(tmp_path)
    with BufferProcess(cfg) as buffer:
        run = Run(tmp_path / "runs", "tested", [f"buffer.address={buffer.address}"], recipe=str(run_paths(cfg).config))
        process = run.start("learner")
        try:
            run.wait("a learner without a batch", lambda: "learner at version 0 of 4" in run.output(), 150)
            process.send_signal(signal.SIGTERM)
            assert run.ended(process, SOON_S) == 0, run.output()
            assert "version 0 is saved; go on with" in run.output()
        finally:
            run.kill_all()
    assert [path.name for path in run_paths(cfg).checkpoints.iterdir()] == ["step-00000000"]
    assert list((tmp_path / "tmp").iterdir()) == []
