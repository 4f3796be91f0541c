"""A child process: how it is asked to leave."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from prolong.launch.local.process import ChildProcess

# says how it was asked to leave
SCRIPT = "trap 'echo by SIGTERM; exit 0' TERM; echo ready > {}/ready; {} echo by the end of its input"


@pytest.mark.parametrize(
    ("held", "waiting", "asked"),
    [(True, "cat;", "by the end of its input"), (False, "while :; do sleep 0.02; done;", "by SIGTERM")],
    ids=["held", "free"],
)
def test_a_held_process_is_asked_by_the_end_of_its_input_alone(tmp_path: Path, held: bool, waiting: str, asked: str) -> None:
    script = SCRIPT.format(tmp_path, waiting)
    os.mkfifo(tmp_path / "ready")
    child = ChildProcess("step", ["sh", "-c", script], env=os.environ, log=tmp_path / "log", held=held)
    for _ in range(2):
        ended = child.start()
        assert (tmp_path / "ready").read_text() == "ready\n"
        child.terminate()
        assert select.select([ended], [], [], 60.0)[0]
        assert child.reap() == 0
        os.close(ended)
    assert child.last_output() == [asked]
    assert child.tail() == [asked, asked]
