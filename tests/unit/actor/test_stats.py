"""The actor's account of its time, and its patience with verdicts of None."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from prolong.actor import stats
from prolong.actor.stats import ActorStats
from prolong.common.errors import VerifierFailure
from prolong.common.types import Verdict, VerdictStatus


def verdict(reward: float | None) -> Verdict:
    status = VerdictStatus.crash if reward is None else VerdictStatus.ok
    return Verdict(reward=reward, status=status, verifier="math", seconds=0.5, detail="signal 9")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stats, "perf_counter", lambda: now[0])
    return now


def test_busy_idle_and_weights_seconds_add_up_to_the_time_that_passed(clock: list[float]):
    account = ActorStats(0.2)
    clock[0] += 2.0  # idle
    account.started(16)
    clock[0] += 5.0
    account.paused(1.5)  # of these five
    clock[0] += 1.0
    account.ended(16)
    clock[0] += 0.25
    account.paused(0.25)  # weights while idle
    numbers = account.snapshot()
    assert (numbers["busy_s"], numbers["idle_s"], numbers["weights_s"]) == (4.5, 2.0, 1.75)
    assert numbers["in_flight"] == 0


def test_a_rollout_keeps_the_actor_busy_until_the_last_one_ends(clock: list[float]):
    account = ActorStats(0.2)
    account.started(2)
    account.ended(1)
    clock[0] += 3.0
    assert account.snapshot()["busy_s"] == 3.0
    assert account.snapshot()["in_flight"] == 1


def test_verification_is_exposed_while_nothing_is_generated(clock: list[float]):
    account = ActorStats(0.2)
    account.started(2)
    clock[0] += 1.0
    account.ended(1)
    with account.awaiting_verdict():
        clock[0] += 2.0  # the other one is still generated
        account.ended(1)
        with account.awaiting_verdict():
            clock[0] += 0.5
        clock[0] += 0.25
    clock[0] += 8.0
    numbers = account.snapshot()
    assert (numbers["verifying_s"], numbers["verify_exposed_s"]) == (2.75, 0.75)


def test_too_many_verdicts_of_none_stop_the_actor_and_say_what_the_verifier_said():
    account = ActorStats(0.2)
    for i in range(49):
        account.judged(verdict(None if i % 2 else 1.0))  # too few to judge by
    with pytest.raises(
        VerifierFailure, match=r"of the last 50 verdicts are None .*'signal 9'.* at most 20% \(verifiers.max_none_rate\)"
    ):
        account.judged(verdict(1.0))


def test_a_few_verdicts_of_none_are_counted_and_bearable():
    account = ActorStats(0.2)
    for i in range(500):
        account.judged(verdict(None if i % 10 == 0 else 0.0))
    numbers = account.snapshot()
    assert numbers["none_verdicts"] == 50
    assert numbers["verify_s"] == 250.0


def test_what_the_pool_counts_is_reported_as_it_grows():
    of_pool = Counter[str]()
    account = ActorStats(0.2, of_pool)
    of_pool["raised"] += 3
    of_pool["status/ok"] += 1
    numbers = account.snapshot()
    assert (numbers["verifiers/raised"], numbers["verifiers/status/ok"]) == (3.0, 1.0)


def test_only_the_recent_verdicts_count():
    account = ActorStats(0.2)
    for _ in range(2000):
        account.judged(verdict(1.0))
    for _ in range(200):
        account.judged(verdict(None))  # 200 of the last 1,000
    with pytest.raises(VerifierFailure):
        account.judged(verdict(None))


def test_cpu_seconds_of_helpers_are_those_of_other_sessions():
    spin = "sum(i * i for i in range(3_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as helper:
        assert helper.stdout is not None
        assert helper.stdin is not None
        helper.stdout.readline()
        account = ActorStats(0.2)
        numbers = account.snapshot()
        helper.stdin.write(b"\n")
    assert 0 < numbers["helper_cpu_s"] < numbers["cpu_s"]


def test_cpu_seconds_of_the_process_tree_grow():
    account = ActorStats(0.2)
    before = account.snapshot()["cpu_s"]
    sum(i * i for i in range(1_000_000))
    assert account.snapshot()["cpu_s"] > before > 0
