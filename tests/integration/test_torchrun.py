"""`prolong learner`: torchrun's agent passes the rank's exit code on, and takes its rank with it."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.runs import CLI, free_port, wait_until
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    model = make_tiny_model(tmp_path / "model", tied=True)
    settings = [f"model={model}", "run.name=r", f"run.root={tmp_path}", f"buffer.address=tcp://127.0.0.1:{free_port()}"]
    return [*CLI, "learner", *settings, "model.max_context=128", "sampling.max_tokens=64"]


@pytest.mark.skipif(bool(list(Path("/dev").glob("nvidia[0-9]*"))), reason="a GPU is here: the mistake would be none")
def test_a_mistake_of_the_user_in_a_rank_is_exit_code_2_of_the_command(command: list[str]) -> None:
    done = subprocess.run([*command, "model.device=cuda"], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert "prolong learner: model.device = cuda" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_agent_leaves_no_rank_behind(command: list[str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = wait_until("a rank", lambda: psutil.Process(agent.pid).children(recursive=True), 150)
        assert isinstance(found, list)
        (rank,) = found
        wait_until("the rank to run Python", lambda: "prolong.launch.torchrun" in rank.cmdline(), 90)
        wait_until("the rank to be bound to its agent", lambda: rank.num_threads() > 1, 90)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait(10)
    _, alive = psutil.wait_procs([rank], timeout=60)
    assert not alive
