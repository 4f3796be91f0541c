"""Faults of the weights plane: no member hangs or holds wrong weights, and survivors have the new version in seconds.

They need two or three on a quiet machine; many times as many are allowed, and still fewer than the limit of a broadcast.

`pytest tests/chaos/test_weight_faults.py -s` prints the figures; PROLONG_SOAK=1 runs 200 faults instead of 40.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from prolong.common.config.sections import Config

from tests.support.buffer_process import make_config
from tests.support.light_member import Fault
from tests.support.runs import wait_until
from tests.support.weight_storm import HANG_S, NUM_BUCKETS, Member, Storm, sums_of

NUM_FAULTS = 200 if os.environ.get("PROLONG_SOAK") else 40
SURVIVORS_S = 20.0  # beyond the transfer itself
ODDS = {
    "kill": 6,
    "stop": 6,
    "corrupt": 4,
    "truncated": 2,
    "overlapping": 2,
    "never": 3,
    "late": 3,
    "wrong_epoch": 3,
    "allocation": 3,
    "learner": 4,
    "restart": 1,
}
GONE = ("kill", "stop")  # the member answers no more
OF_THE_LEARNER = ("learner", "restart")


def make_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, slack_s: float, timeout_s: float) -> Storm:
    cfg: Config = make_config(tmp_path, silence_s=3.0)
    cfg.weights.timeout_s, cfg.weights.bucket_mb = timeout_s, 1
    return Storm(cfg, monkeypatch, slack_s=slack_s)


def four_members(storm: Storm) -> Iterator[Storm]:
    try:
        storm.begin(4)
        yield storm
    finally:
        storm.close()


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    yield from four_members(make_storm(tmp_path, monkeypatch, slack_s=2.0, timeout_s=30.0))


@pytest.fixture
def hasty_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    """With a quarter of the slack, so that hundreds of faults fit into minutes."""
    yield from four_members(make_storm(tmp_path, monkeypatch, slack_s=0.5, timeout_s=3.0))


def print_table(seconds: dict[str, list[float]], until: str) -> None:
    print(f"\n{'fault':12s} {'times':>5s} {'median':>7s} {'worst':>7s}   seconds {until}")
    for kind, values in seconds.items():
        print(f"{kind:12s} {len(values):5d} {statistics.median(values):7.2f} {max(values):7.2f}")


def wait_for_survivors(storm: Storm, survivors: list[Member], since_s: float) -> float:
    """Seconds from `since_s` until each of them has the newest version, whose bytes are compared."""
    version, expected = storm.version, sums_of(storm.version)
    for member in survivors:
        wait_until(f"version {version} at {member.name}", lambda m=member: m.holds(version), HANG_S)
        assert member.sums[version] == expected, f"{member.name} holds other bytes than version {version}"
    return max(member.held[version] for member in survivors) - since_s


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_survivors_of_any_killed_or_stopped_member_have_the_weights_long_before_the_limit_of_a_broadcast(storm: Storm) -> None:
    """Each of four, before the join and inside the broadcast: gloo's tree gives every rank another part."""
    seconds: dict[str, list[float]] = defaultdict(list)
    transfers = []
    for bucket in (-1, 3):
        for name in sorted(storm.members):
            for kind in ("kill", "stop"):
                started = storm.publish()
                transfers.append(wait_for_survivors(storm, list(storm.members.values()), started))
                storm.settle()
                if bucket < 0:
                    storm.new_epoch()
                victim = storm.members[name]
                victim.ask(Fault(kind, bucket))
                storm.publish()
                wait_until(f"{name} to {kind}", lambda v=victim: v.listen() or v.fault_s, HANG_S)
                assert victim.fault_s is not None
                survivors = [member for member in storm.members.values() if member is not victim]
                took_s = wait_for_survivors(storm, survivors, victim.fault_s)
                assert took_s <= SURVIVORS_S + max(transfers), f"{kind} of {name} at {bucket}: {took_s:.1f} s"
                seconds[f"{kind} {'join' if bucket < 0 else 'send'}"].append(took_s)
                storm.kill(name)
                storm.spawn(name)
                storm.settle()
    print_table(seconds | {"none": transfers}, "until the survivors have the weights; none: a transfer without fault")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_hundreds_of_faults_hang_no_member_and_leave_none_with_wrong_weights(hasty_storm: Storm) -> None:
    """What takes longer than HANG_S hangs; the table shows how long it takes."""
    storm, rng = hasty_storm, random.Random(20261123)
    seconds: dict[str, list[float]] = defaultdict(list)
    noticed: dict[str, list[float]] = defaultdict(list)
    started = time.monotonic()
    for _ in range(NUM_FAULTS):
        kind = rng.choices(list(ODDS), list(ODDS.values()))[0]
        victim = storm.members[rng.choice(sorted(storm.members))]
        failed = storm.sender.metrics()["weights/failed"]
        fault_s = inject(storm, kind, victim, rng)
        survivors = [member for member in storm.members.values() if kind in OF_THE_LEARNER or member is not victim]
        seconds[kind].append(wait_for_survivors(storm, survivors, fault_s))
        if kind != "restart":
            wait_until(f"{kind} to be noticed", lambda n=failed: storm.sender.metrics()["weights/failed"] > n, HANG_S)
            noticed[kind].append(time.monotonic() - fault_s)
        recover(storm, kind, victim, rng)
        storm.settle()
    print_table(seconds, f"until the survivors have the weights; {NUM_FAULTS} faults in {time.monotonic() - started:.0f} s")
    print_table(noticed, "until the learner knows of the fault")
    assert storm.version >= NUM_FAULTS


def inject(storm: Storm, kind: str, victim: Member, rng: random.Random) -> float:
    """Publish the next version and have the fault happen in its broadcast; returns the time of the fault."""
    if kind in OF_THE_LEARNER:
        storm.fail_at(rng.randrange(NUM_BUCKETS))
        storm.publish()
        failed_s = wait_until("the learner to fail", lambda: storm.failed_s, HANG_S)
        if kind == "restart":
            storm.stop_learner()
            storm.start_learner()
            storm.publish()
        return float(failed_s)  # type: ignore[arg-type]
    bucket = rng.randrange(-1 if kind in GONE else 0, NUM_BUCKETS)
    if kind in ("late", "truncated", "overlapping") or bucket < 0:
        storm.new_epoch()  # members join a group, and compare manifests, when an epoch begins
    victim.fault_s = None
    victim.ask(Fault(kind, -1 if kind == "late" else bucket, late_s=1.2 * storm.phase_timeout_s))
    storm.publish()
    wait_until(f"{victim.name}: {kind}", lambda: victim.listen() or victim.fault_s, HANG_S)
    assert victim.fault_s is not None
    return victim.fault_s


def recover(storm: Storm, kind: str, victim: Member, rng: random.Random) -> None:
    """Let the victim come back: by itself, by SIGCONT, or as another process."""
    if kind == "stop" and rng.random() < 0.5:
        assert victim.process.pid is not None
        os.kill(victim.process.pid, signal.SIGCONT)
    elif kind in GONE or (kind in ("never", "wrong_epoch") and rng.random() < 0.75):
        storm.kill(victim.name)
        storm.spawn(victim.name)
