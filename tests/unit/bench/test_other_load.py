"""The load of others: processes outside of one tree that want a core."""

from pathlib import Path

from prolong.bench.other_load import HostProcess, OtherLoad, count_shares, runnable_others

TREE = [
    HostProcess(pid=1, state="S", parent=0, session=1, threads=1),
    HostProcess(pid=10, state="R", parent=1, session=10, threads=1),  # ours
    HostProcess(pid=11, state="R", parent=10, session=11, threads=1),  # a verifier of ours, in a session of its own
    HostProcess(pid=20, state="R", parent=1, session=20, threads=1),
    HostProcess(pid=21, state="R", parent=20, session=20, threads=1),
    HostProcess(pid=30, state="S", parent=1, session=30, threads=1),
]


def test_processes_of_one_session_ask_for_one_share_and_ours_for_none() -> None:
    processes = {process.pid: process for process in TREE}
    assert count_shares(processes, 10, grouped=True) == 1
    assert count_shares(processes, 10, grouped=False) == 2
    assert count_shares(processes, 20, grouped=True) == 2


def test_this_machine_can_be_asked_whatever_its_processes_are_called() -> None:
    name = Path("/proc/self/comm")
    before = name.read_bytes()
    name.write_bytes(b"\xff)")
    try:
        assert runnable_others(root=-1) >= 1, "this process runs"
    finally:
        name.write_bytes(before)


def test_the_mean_is_that_of_the_last_seconds() -> None:
    load = OtherLoad()
    load._samples = [(0.0, 100), (50.0, 4), (60.0, 2)]
    assert load.mean_of_last(10.0) == 3.0
    assert load.mean_of_last(1.0) == 2.0
    assert OtherLoad().mean_of_last(1.0) == 0.0
