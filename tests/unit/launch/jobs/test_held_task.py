"""The task that takes the end of its standard input for the request to leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prolong.launch.jobs.held_task import MODULE

# says that it is ready, then how many SIGTERMs it got, and leaves with code 7 after a SIGUSR1
COUNTER = """
import os, signal
told = []
def leave(number, frame):
    print(len(told), flush=True)
    raise SystemExit(7)
signal.signal(signal.SIGTERM, lambda number, frame: (told.append(number), print("told", flush=True)))
signal.signal(signal.SIGUSR1, leave)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


class Held:
    def __init__(self, leave_s: float, *command: str) -> None:
        line = [sys.executable, "-m", MODULE, str(leave_s), *command]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def started() -> Iterator[list[Held]]:
    held: list[Held] = []
    yield held
    for each in held:
        each.process.kill()
        each.process.wait(60)
        for stream in (each.process.stdin, each.process.stdout):
            assert stream is not None
            stream.close()


def test_the_end_of_its_input_becomes_one_sigterm_for_the_command(started: list[Held]) -> None:
    held = Held(600.0, sys.executable, "-c", COUNTER)
    started.append(held)
    pid = int(held.read())
    held.end_input()
    assert held.read() == "told"
    assert held.process.poll() is None
    os.kill(pid, signal.SIGUSR1)
    assert held.read() == "1"
    assert held.process.wait(60) == 7


def test_a_sigterm_for_all_processes_of_the_task_is_not_given_twice(started: list[Held]) -> None:
    held = Held(600.0, sys.executable, "-c", COUNTER)
    started.append(held)
    pid = int(held.read())
    held.process.terminate()
    held.end_input()
    os.kill(pid, signal.SIGUSR1)
    assert held.read() == "0"
    assert held.process.wait(60) == 7


def test_a_command_that_stays_is_killed(started: list[Held]) -> None:
    held = Held(0.1, sys.executable, "-c", COUNTER)
    started.append(held)
    held.read()
    held.end_input()
    assert held.process.wait(60) == 128 + signal.SIGKILL


def test_its_exit_code_is_that_of_the_command(started: list[Held]) -> None:
    held = Held(60.0, "sh", "-c", "exit 2")
    started.append(held)
    assert held.process.wait(60) == 2
