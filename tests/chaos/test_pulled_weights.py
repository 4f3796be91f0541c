"""Whole runs whose weights are pulled: a late joiner, a relay, and each kind of process that is killed or hangs meanwhile.

A relay serves hosts other than the learner's, so relay and far actors have a host name of their own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.runs import ON_VLLM, SMALL, assert_balanced
from tests.support.watched_run import BATCH, WatchedRun

STEPS = 12
SILENCE_S = 4.0  # no process is taken for dead that has to wait for a busy machine
SOON_S = 120.0  # for what happens at once on a machine that is not busy
FAR = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", 'hostname far && exec "$@"', "sh"]


def has_host_names() -> bool:
    """Whether a process may have a host name of its own here."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*FAR, "true"], capture_output=True, timeout=100, check=False).returncode == 0


class PullingRun(WatchedRun):
    """A run that goes on until it is stopped, looked at through the buffer's Status."""

    def __init__(self, root: Path, model: Path, *settings: str) -> None:
        overrides = [*SMALL, f"model.path={model}", f"buffer.silence_s={SILENCE_S}"]
        # problems of code need a sandbox, which cannot be made inside a namespace of users
        overrides += [f"data.train=[{{file: {model}/train.jsonl, only: math}}]", "data.heldout=[]", "actor.capacity=24"]
        overrides += ["verifiers.timeout_s=300"]
        super().__init__(root, "pulled", *overrides, "weights.transport=pull", *settings)

    def start(self, command: str, name: str, *settings: str, far: bool = False) -> subprocess.Popen[bytes]:
        return self.run.start(command, "--name", name, *settings, within=FAR if far else [])

    def wait_for_versions(self, *names: str, more: int = 3) -> None:
        """Each of these receives newer weights, and the learner makes them."""
        version = self.status().version

        def all_newer() -> bool:
            status = self.status()
            held = [float(status.peers.get(name, {}).get("version", -1)) for name in names]
            return min([status.version, *held]) >= version + more

        self.run.wait(f"newer weights at {', '.join(names)}", all_newer, SOON_S)

    def wait_for_work(self, name: str) -> None:
        made = self.number(name, "generated_rollouts")
        self.run.wait(f"groups of {name}", lambda: self.number(name, "generated_rollouts") > made, SOON_S)


@pytest.fixture(scope="module")
def pulling(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[PullingRun]:
    """A run that goes on, with one actor."""
    pulling = PullingRun(tmp_path_factory.mktemp("pulling"), demo_model, "run.steps=100000", "checkpoint.every=10")
    try:
        pulling.run.start("buffer")
        pulling.run.start("learner")
        pulling.start("actor", "near")
        pulling.wait_for_versions("near")
        yield pulling
    finally:
        pulling.run.kill_all()


@pytest.mark.timeout(600)
def test_a_run_whose_weights_are_pulled_ends_with_everybody_in_it(tmp_path: Path, demo_model: Path) -> None:
    pulling = PullingRun(tmp_path, demo_model, f"run.steps={STEPS}")
    run = pulling.run
    try:
        run.start("buffer")
        run.start("learner")
        pulling.start("relay", "relay")
        pulling.start("actor", "serving", "weights.serve=true", ON_VLLM)
        codes = {label: run.ended(process, 400) for label, process in run.processes.items()}
        assert set(codes.values()) == {0}, f"{codes}\n{run.output()}"
        assert_balanced(run.summary(), STEPS, BATCH)
        assert "Traceback" not in run.output()
    finally:
        run.kill_all()


def every_process_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def joins_late(pulling: PullingRun, name: str, *others: str, far: bool) -> subprocess.Popen[bytes]:
    """It gets its first weights and then work; nobody else misses an update."""
    failed = [pulling.number(other, "failed_updates") for other in others]
    process = pulling.start("actor", name, far=far)
    pulling.wait_for_work(name)
    assert [pulling.number(other, "failed_updates") for other in others] == failed
    return process


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not has_host_names(), reason="no process may have a host name of its own here")
def test_a_run_goes_on_whoever_of_those_that_pull_is_killed_or_hangs(pulling: PullingRun) -> None:
    relay = pulling.start("relay", "relay", far=True)
    pulling.wait_for_versions("near", "relay")
    far = joins_late(pulling, "far", "near", far=True)
    pulling.run.wait("weights through the relay", lambda: pulling.number("relay", "weights/sent_bytes") > 0, SOON_S)
    pulling.run.wait("a far actor at the relay", lambda: pulling.peer("far").get("sources") == "relay, learner", SOON_S)

    relay.send_signal(signal.SIGSTOP)
    pulling.wait_for_versions("near", "far")
    relay.kill()
    pulling.wait_for_versions("near", "far")

    hung = every_process_of(far)
    for each in hung:
        each.send_signal(signal.SIGSTOP)
    pulling.run.wait("the buffer to give it up", lambda: not pulling.peer("far"), SOON_S)
    pulling.wait_for_versions("near")
    for each in hung:
        each.send_signal(signal.SIGCONT)
    pulling.wait_for_work("far")
    pulling.wait_for_versions("near", "far")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pull_outlives_its_learner_and_an_actor_may_die_in_it(pulling: PullingRun) -> None:
    """The slow ones take seconds for the first copy of the model, 2.4 MB: too long to be given work by a learner this fast."""
    doomed = pulling.start("actor", "doomed", "weights.max_mb_s=0.02")
    pulling.run.wait("its first pull", lambda: pulling.peer("doomed"), SOON_S)
    slow = pulling.start("actor", "slow", "weights.max_mb_s=0.15")
    pulling.run.wait("its first pull", lambda: pulling.peer("slow"), SOON_S)
    doomed.kill()
    for rank in pulling.run.find("learner"):
        rank.kill()
    held = [pulling.peer(name).get("version", -1) for name in ("doomed", "slow")]
    assert held == [-1, -1], "the pulls had ended before anything was killed"
    learner = pulling.run.processes["learner-1"]
    pulling.run.ended(learner, SOON_S)
    pulling.run.start("learner")
    pulling.wait_for_versions("near")
    pulling.run.wait("its first weights", lambda: pulling.number("slow", "version") >= 0, 2 * SOON_S)
    assert slow.poll() is None
