"""Networks of hosts on one machine that were not taken away."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prolong.bench.networks import network, why_no_networks

from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks() or "networks can be made here")

# prints a process that lives on its host
BUILDER = """
import subprocess, sys
from prolong.bench.networks import network
with network("near") as hosts:
    host = subprocess.Popen([*hosts.within("near"), "sleep", "600"], start_new_session=True)
    print(host.pid, flush=True)
    sys.stdin.read()
"""


def test_the_network_of_a_killed_process_goes_with_the_next_one() -> None:
    with subprocess.Popen([sys.executable, "-c", BUILDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        host = psutil.Process(int(builder.stdout.readline()))
        namespaces = [Path(f"/run/netns/prolong{builder.pid}-0-{name}") for name in ("near", "switch")]
        with network("far"):
            assert all(each.exists() for each in namespaces)
        wait_until("the host's process", lambda: host.name() == "sleep", 60)
        builder.kill()
    with network("far"):
        assert not any(each.exists() for each in namespaces)
    wait_until("the end of what ran there", lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE, 60)
