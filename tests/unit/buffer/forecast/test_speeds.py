"""An actor's speed, from its heartbeats or from its groups alone."""

from __future__ import annotations

import random

import pytest
from prolong.buffer.forecast.speeds import ActorSpeed, Line


def heartbeats(speed: ActorSpeed, loads: list[float], *, at_zero: float, slope: float, sums: dict[str, float]) -> None:
    for load in loads:
        steps = 100.0
        sums["engine_steps"] = sums.get("engine_steps", 0.0) + steps
        sums["engine_running"] = sums.get("engine_running", 0.0) + steps * load
        sums["busy_s"] = sums.get("busy_s", 0.0) + steps * (at_zero + slope * load)
        speed.note_heartbeat(sums, leased=int(load))


def test_a_line_finds_the_line_that_its_observations_lie_on() -> None:
    line = Line()
    for x in (1.0, 5.0, 9.0, 2.0, 8.0, 4.0) * 4:
        line.note(x, 3.0 + 0.5 * x)
    assert line.fit() == pytest.approx((3.0, 0.5), rel=0.05)


def test_observations_at_one_x_tell_no_slope() -> None:
    line = Line()
    for _ in range(10):
        line.note(8.0, 2.0)
    assert line.fit() == (2.0, 0.0)
    assert line.at(100.0) == 2.0


def test_a_slope_below_0_is_none() -> None:
    line = Line()
    for x, y in ((1.0, 5.0), (9.0, 1.0)) * 5:
        line.note(x, y)
    at_zero, slope = line.fit()
    assert slope == 0.0
    assert at_zero == pytest.approx(3.0, rel=0.1)


def test_heartbeats_tell_the_step_at_any_load() -> None:
    speed, rng = ActorSpeed(), random.Random(0)
    heartbeats(speed, [rng.uniform(4, 60) for _ in range(60)], at_zero=0.02, slope=0.001, sums={})
    assert speed.is_known
    assert speed.step_s(10.0) == pytest.approx(0.03, rel=0.05)
    assert speed.step_s(50.0) == pytest.approx(0.07, rel=0.05)


def test_an_actor_that_becomes_slower_is_noticed_within_its_memory() -> None:
    speed, sums = ActorSpeed(), {}
    heartbeats(speed, [16.0] * 50, at_zero=0.02, slope=0.0, sums=sums)
    heartbeats(speed, [16.0] * 75, at_zero=0.08, slope=0.0, sums=sums)
    assert speed.step_s(16.0) == pytest.approx(0.08, rel=0.05)


def halted(speed: ActorSpeed, sums: dict[str, float], seconds: float) -> None:
    """A heartbeat of one step, in which the process was stopped."""
    heartbeats(speed, [16.0], at_zero=seconds / 100, slope=0.0, sums=sums)


def test_an_actor_that_was_stopped_for_once_is_not_taken_for_a_slow_one() -> None:
    speed, sums = ActorSpeed(), {}
    heartbeats(speed, [16.0] * 50, at_zero=0.02, slope=0.0, sums=sums)
    halted(speed, sums, 60.0)
    assert speed.step_s(16.0) < 0.02 * 1.2


def test_an_actor_that_becomes_much_slower_is_believed_the_third_time() -> None:
    speed, sums = ActorSpeed(), {}
    heartbeats(speed, [16.0] * 50, at_zero=0.02, slope=0.0, sums=sums)
    heartbeats(speed, [16.0] * 2, at_zero=2.0, slope=0.0, sums=sums)
    assert speed.step_s(16.0) < 0.03
    heartbeats(speed, [16.0], at_zero=2.0, slope=0.0, sums=sums)
    assert speed.step_s(16.0) == pytest.approx(2.0)


def test_a_stop_that_is_the_first_that_is_known_of_an_actor_is_forgotten_with_the_next_steps() -> None:
    speed, sums = ActorSpeed(), {}
    heartbeats(speed, [16.0], at_zero=0.02, slope=0.0, sums=sums)
    halted(speed, sums, 60.0)
    assert speed.step_s(16.0) == pytest.approx(0.6)
    heartbeats(speed, [16.0], at_zero=0.02, slope=0.0, sums=sums)
    assert speed.step_s(16.0) == pytest.approx(0.02)


def test_steps_of_few_rollouts_say_little_of_those_of_many() -> None:
    """Where each rollout adds as much, steps of 64 take 32 times as long as those of 2, and nobody was held up."""
    speed, rng = ActorSpeed(), random.Random(0)
    heartbeats(speed, [rng.choice((2.0, 64.0)) for _ in range(60)], at_zero=0.0, slope=0.01, sums={})
    assert speed.step_s(2.0) == pytest.approx(0.02, rel=0.1)
    assert speed.step_s(64.0) == pytest.approx(0.64, rel=0.1)


def test_groups_that_waited_for_a_stopped_process_do_not_count_for_their_whole_time() -> None:
    speed = ActorSpeed()
    heartbeats(speed, [16.0] * 30, at_zero=0.02, slope=0.0, sums={})
    for took_s in (*[2.5] * 30, 60.0, 60.0):
        speed.note_group(longest=100.0, prompt_tokens=20.0, load=16.0, took_s=took_s)
    assert speed.duration_s(longest=100.0, prompt_tokens=20.0, load=16.0) < 2.5 * 1.5


def test_groups_alone_tell_the_speed_of_an_actor_whose_engine_counts_nothing() -> None:
    speed = ActorSpeed()
    for longest in (100.0, 300.0, 50.0, 200.0):
        speed.note_group(longest=longest, prompt_tokens=20.0, load=8.0, took_s=longest * 0.05)
    assert speed.duration_s(longest=400.0, prompt_tokens=20.0, load=8.0) == pytest.approx(20.0)


def test_what_a_group_took_beyond_its_steps_grows_with_the_prompt() -> None:
    speed, rng = ActorSpeed(), random.Random(1)
    heartbeats(speed, [16.0] * 30, at_zero=0.02, slope=0.0, sums={})
    for _ in range(100):
        prompt_tokens = rng.uniform(100, 4000)
        speed.note_group(longest=500.0, prompt_tokens=prompt_tokens, load=16.0, took_s=10.0 + 0.5 + 0.001 * prompt_tokens)
    assert speed.duration_s(longest=500.0, prompt_tokens=3000.0, load=16.0) == pytest.approx(13.5, rel=0.03)
    assert speed.duration_s(longest=500.0, prompt_tokens=0.0, load=16.0) == pytest.approx(10.5, rel=0.03)


def test_absurd_numbers_are_left_out() -> None:
    speed, sums = ActorSpeed(), {}
    heartbeats(speed, [16.0] * 5, at_zero=0.02, slope=0.0, sums=sums)
    for absurd in (float("nan"), float("inf"), 1e300, -1.0):
        for name in ("engine_steps", "engine_running", "busy_s"):
            speed.note_heartbeat(sums | {name: absurd}, leased=16)
            speed.note_heartbeat(sums, leased=16)
    heartbeats(speed, [16.0] * 30, at_zero=0.02, slope=0.0, sums=sums)
    assert speed.step_s(16.0) == pytest.approx(0.02, rel=0.05)


def test_an_actor_whose_heartbeats_are_all_absurd_is_known_by_its_groups() -> None:
    speed = ActorSpeed()
    for count in range(1, 4):
        speed.note_heartbeat({"engine_steps": 10.0 * count, "engine_running": 80.0 * count, "busy_s": 1e300 * count}, leased=8)
    speed.note_group(longest=100.0, prompt_tokens=20.0, load=8.0, took_s=5.0)
    assert speed.step_s(8.0) == pytest.approx(0.05)
