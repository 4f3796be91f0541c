"""A process that the actor started ends with it."""

from __future__ import annotations

import os
import select
import subprocess
import sys

ACTOR = """
import os, subprocess, sys
os.environ["PROLONG_ACTOR_PID"] = str(os.getpid())
child = '''
import time
from prolong.actor.engines.vllm.parent_watch import end_with_parent
end_with_parent()
print(1, flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_child_of_a_killed_actor_is_gone_soon():
    actor = subprocess.run([sys.executable, "-c", ACTOR], stdout=subprocess.PIPE, timeout=60)
    assert actor.returncode == -9
    try:
        child = os.pidfd_open(int(actor.stdout))
    except ProcessLookupError:
        return
    assert select.select([child], [], [], 60.0)[0]
    os.close(child)


def test_a_child_that_comes_up_after_the_actor_died_leaves_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    late = "from prolong.actor.engines.vllm.parent_watch import end_with_parent; end_with_parent(); print('still here')"
    environment = {**os.environ, "PROLONG_ACTOR_PID": str(gone.pid)}
    result = subprocess.run([sys.executable, "-c", late], env=environment, stdout=subprocess.PIPE, timeout=60)
    assert result.returncode == 1
    assert result.stdout == b""
