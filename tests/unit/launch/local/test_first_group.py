"""A slow start is waited for, a run that stands still is not. Times are given: no test waits."""

from typing import Any

from prolong.common.messages import Status
from prolong.launch.local.first_group import LOADING_LIMITS, FirstGroup

LIMIT = 100.0


def status(*, stored: int = 0, rollouts: float = 0.0, state: str = "ready", flawed: int = 0) -> Status:
    about: dict[str, Any] = {"actor-0": {"state": state, "generated_rollouts": rollouts}} if state else {}
    ledger = {"leased": 4, "stored": stored, "batched": 0, "trained": 0, "filtered": 0}
    counters = {"buffer/flawed_nonfinite": flawed, "buffer/rejected_frames": 3}
    return Status(
        run="r", generation=1, version=0, steps=1, ledger=ledger, balanced=True, peers=about, counters=counters, validation=[]
    )


def test_a_model_that_loads_for_longer_than_the_limit_is_waited_for() -> None:
    watch = FirstGroup(LIMIT, 0.0)
    for now in range(10, 900, 10):
        assert watch.judge(now, None if now < 50 else status(state=""), cpu_s=0.9 * now) == ""


def test_processes_that_do_nothing_end_the_run_in_a_sentence() -> None:
    watch = FirstGroup(LIMIT, 0.0)
    assert watch.judge(10.0, status(state=""), cpu_s=5.0) == ""
    assert watch.judge(100.0, status(state=""), cpu_s=5.1) == ""
    reason = "no actor was ready, and no process did anything, for 100 s (launch.first_group_s)"
    assert watch.judge(111.0, status(state=""), cpu_s=5.2) == reason


def test_a_process_that_is_busy_with_waiting_does_not_keep_the_run_for_ever() -> None:
    watch = FirstGroup(LIMIT, 0.0)
    ends = [now for now in range(0, 4000, 50) if watch.judge(now, None, cpu_s=float(now))]
    assert ends[0] == LOADING_LIMITS * LIMIT + 50


def test_an_actor_that_is_ready_and_generates_nothing_ends_the_run() -> None:
    """Its engine may be as busy as it likes."""
    watch = FirstGroup(LIMIT, 0.0)
    assert watch.judge(10.0, status(), cpu_s=10.0) == ""
    assert watch.judge(105.0, status(), cpu_s=105.0) == ""
    reason = "no group was scored, and no rollout generated, for 100 s (launch.first_group_s)"
    assert watch.judge(111.0, status(), cpu_s=111.0) == reason


def test_a_long_validation_before_the_first_step_is_no_standstill() -> None:
    """Its groups are in no ledger, but rollouts are generated."""
    watch = FirstGroup(LIMIT, 0.0)
    for now in range(60, 900, 60):
        assert watch.judge(now, status(rollouts=float(now)), cpu_s=0.0) == ""
    assert not watch.over


def test_rollouts_that_are_all_refused_are_no_sign_of_life() -> None:
    """As of a model whose log-probabilities are not finite: it would generate for ever."""
    watch = FirstGroup(LIMIT, 0.0)
    ends = [now for now in range(10, 300, 10) if watch.judge(now, status(rollouts=float(now), flawed=now), cpu_s=0.0)]
    assert ends[0] == 110


def test_groups_of_an_earlier_start_do_not_count_and_the_first_new_one_ends_the_watch() -> None:
    watch = FirstGroup(LIMIT, 0.0)
    watch.judge(10.0, status(stored=7), cpu_s=0.0)
    assert not watch.over
    watch.judge(20.0, status(stored=8), cpu_s=0.0)
    assert watch.over
    assert watch.judge(9999.0, status(stored=8), cpu_s=0.0) == ""


def test_a_buffer_that_does_not_answer_for_a_while_is_waited_for() -> None:
    watch = FirstGroup(LIMIT, 0.0)
    assert watch.judge(10.0, status(), cpu_s=0.0) == ""
    assert watch.judge(90.0, None, cpu_s=0.0) == ""
    assert watch.judge(100.0, status(rollouts=1.0), cpu_s=0.0) == ""
    assert watch.judge(190.0, None, cpu_s=0.0) == ""
