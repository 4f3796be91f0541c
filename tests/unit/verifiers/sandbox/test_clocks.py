"""The clocks of other processes."""

import os
import subprocess
import sys

import pytest
from prolong.verifiers.sandbox.clocks import Clocks, ProcessorWait, pid_of, readable

from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(not readable(), reason="this kernel keeps no scheduler statistics")


def test_a_busy_process_uses_its_processor_and_a_sleeping_one_does_not():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    asleep = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        of_busy, of_asleep = Clocks(busy.pid), Clocks(asleep.pid)

        def used() -> bool:
            of_busy.read()
            return of_busy.cpu_s > 0.2

        wait_until("a fifth of a second of CPU time", used, 60)
        of_asleep.read()
        assert of_asleep.cpu_s < of_busy.cpu_s
    finally:
        for process in (busy, asleep):
            process.kill()
            process.wait()
    before = of_busy.cpu_s
    of_busy.read()
    assert of_busy.cpu_s == before


def test_processes_on_one_processor_wait_for_each_other():
    cpu = min(os.sched_getaffinity(0))
    loop = f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    pair = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(2)]
    try:
        clocks, wait = Clocks(pair[0].pid), ProcessorWait(pair[0].pid)

        def waited() -> bool:
            clocks.read()
            return clocks.waited_s > 0.1 and wait.read_s() > 0.1

        wait_until("a tenth of a second of waiting", waited, 60)
        wait.close()
    finally:
        for process in pair:
            process.kill()
            process.wait()


def test_a_descriptor_tells_the_pid():
    descriptor = os.pidfd_open(os.getpid())
    try:
        assert pid_of(descriptor) == os.getpid()
    finally:
        os.close(descriptor)
    assert pid_of(0) == 0
    assert ProcessorWait(2**22 + 1).read_s() == 0.0
