"""A quota for one actor of two, and the shares that are made of what both sampled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prolong.bench.cpu_quota import CGROUPS, PERIOD_US, quota
from prolong.bench.two_pools import compared

from tests.support.runs import wait_until

BUSY = "while True: pass"


@pytest.fixture
def busy() -> Iterator[psutil.Process]:
    child = subprocess.Popen([sys.executable, "-c", BUSY])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


def test_without_groups_a_process_is_stopped_by_turns_and_runs_afterwards(busy: psutil.Process, tmp_path: Path) -> None:
    with quota(busy.pid, 0.25, cgroups=tmp_path) as how:
        assert how == "SIGSTOP and SIGCONT by turns"
        wait_until("it is stopped", lambda: busy.status() == psutil.STATUS_STOPPED, 60)
        wait_until("it runs", lambda: busy.status() != psutil.STATUS_STOPPED, 60)
    assert busy.status() != psutil.STATUS_STOPPED
    assert list(tmp_path.iterdir()) == []


def test_a_group_holds_the_process_and_its_quota_and_is_removed(busy: psutil.Process) -> None:
    with quota(busy.pid, 0.25) as how:
        if not how.startswith("cgroup"):
            pytest.skip("this machine lets nobody make a group with a quota")
        (folder,) = [*CGROUPS.glob(f"prolong-bench-{busy.pid}"), *CGROUPS.glob(f"cpu/prolong-bench-{busy.pid}")]
        assert (folder / "cgroup.procs").read_text().split() == [str(busy.pid)]
        limit = folder / ("cpu.max" if "v2" in how else "cpu.cfs_quota_us")
        assert limit.read_text().split()[0] == str(PERIOD_US // 4)
    assert not folder.exists()
    assert busy.is_running()


def test_arms_are_medians_as_shares_of_the_roof() -> None:
    def numbers(fast: float, slow: float) -> dict[str, float]:
        return {"fast-0/engine_tokens": fast, "slow-0/engine_tokens": slow, "fast-0/cpu_s": 1.0, "slow-0/cpu_s": 0.25}

    arms = [("roof", numbers(80, 20)), ("even", numbers(50, 20)), ("forecast", numbers(76, 18)), ("even", numbers(54, 20))]
    found = compared(arms)
    assert found["even"]["tokens_per_s"] == 72.0
    assert found["even"]["share_of_roof/both"] == 0.72
    assert found["forecast"]["share_of_roof/both"] == pytest.approx(0.94)
    assert found["forecast"]["share_of_roof/slow-0"] == 0.9
    assert found["roof"]["cpu_share/slow-0"] == 0.25
