"""A task of srun that is asked to leave by the end of its standard input: its command gets SIGTERM then, and nobody else does.

srun cannot ask: it answers SIGTERM by killing its tasks, and passes other signals to every process of a task. An actor whose
engine and verifiers get the signal too has nothing left to hand over. The end of standard input reaches the task also when srun
or the host that it runs on has died.

    python -m prolong.launch.jobs.held_task SECONDS COMMAND...
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from ...common.signals import die_with_parent

MODULE = "prolong.launch.jobs.held_task"
CHUNK = 4096  # bytes of standard input that are thrown away at a time


def hold(command: list[str], leave_s: float) -> int:
    """Run the command; its exit code, 128 + n for signal n. It is killed `leave_s` after the end of standard input.

    A SIGTERM that comes from outside comes to every process of the task: the command has it too, and gets no second one.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    parent = os.getpid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with_parent(parent=parent))
    _wait_for_either(child)
    if child.poll() is None:
        if not told:
            child.terminate()
        try:
            child.wait(leave_s)
        except subprocess.TimeoutExpired:
            child.kill()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _wait_for_either(child: subprocess.Popen[bytes]) -> None:
    """Return at the end of standard input or of the command."""
    poller, ended = select.poll(), os.pidfd_open(child.pid)
    poller.register(ended, select.POLLIN)
    poller.register(sys.stdin.fileno(), select.POLLIN)
    try:
        while True:
            ready = dict(poller.poll())
            if ended in ready or not os.read(sys.stdin.fileno(), CHUNK):
                return
    finally:
        os.close(ended)


if __name__ == "__main__":
    raise SystemExit(hold(sys.argv[2:], float(sys.argv[1])))
