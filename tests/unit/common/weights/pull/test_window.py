"""Pace and window: the rate that is allowed is kept, and what is granted follows the link."""

from prolong.common.weights.pull.pace import BURST_S, Pace
from prolong.common.weights.pull.protocol import PIECE_BYTES
from prolong.common.weights.pull.window import FIRST_SILENCE_S, MAX_BYTES, MAX_SILENCE_S, MIN_BYTES, Window


def test_a_pace_is_kept_over_time_and_waits_are_exact():
    pace, now, sent = Pace(10.0), 100.0, 0
    while now < 110.0:
        wait_s = pace.wait_s(now)
        if wait_s == 0.0:
            pace.spend(PIECE_BYTES, now)
            sent += PIECE_BYTES
        now += wait_s
    assert abs(sent / 10e6 - 10.0) <= 0.2 + BURST_S


def test_without_a_limit_nothing_waits():
    pace = Pace(0.0)
    pace.spend(1 << 40, 0.0)
    assert pace.wait_s(0.0) == 0.0


def test_idle_time_is_not_saved_up():
    pace = Pace(1.0)
    assert pace.wait_s(0.0) == 0.0
    pace.spend(int(BURST_S * 1e6), 1000.0)
    assert pace.wait_s(1000.0) == 0.0
    pace.spend(1_000_000, 1000.0)
    assert pace.wait_s(1000.0) == 1.0


def receive(window: Window, rate: float, seconds: float) -> None:
    for step in range(int(10 * seconds) + 1):
        window.note_bytes(int(rate / 10), step / 10)


def test_the_window_holds_twice_what_the_link_does_within_its_bounds():
    near, far, farther = Window(1, 0.0), Window(1, 0.0), Window(1, 0.0)
    for window, round_trip_s in ((near, 0.0002), (far, 0.1), (farther, 1.0)):
        window.note_round_trip(round_trip_s)
        receive(window, 125e6, 5.0)
    assert near.stream_bytes() == MIN_BYTES
    assert 25e6 < far.stream_bytes() < 30e6
    assert farther.stream_bytes() == MAX_BYTES


def test_before_anything_is_known_100_mbit_at_100_ms_is_filled():
    assert Window(1, 0.0).stream_bytes() > 2 * 100e6 / 8 * 0.1


def test_streams_share_the_window_and_a_pace_makes_it_small():
    assert Window(4, 0.0).stream_bytes() == MIN_BYTES // 4
    assert Window(16, 0.0).stream_bytes() == PIECE_BYTES
    assert Window(1, 2e6).stream_bytes() == 2_000_000


def test_silence_is_borne_longer_on_a_slow_link_and_after_each_failure():
    fast, slow = Window(1, 0.0), Window(1, 0.0)
    assert fast.silence_s(0) == FIRST_SILENCE_S
    assert fast.silence_s(1) == 2 * FIRST_SILENCE_S
    assert fast.silence_s(100) == MAX_SILENCE_S
    receive(fast, 1e9, 2.0)
    receive(slow, 125e3, 2.0)
    assert fast.silence_s(0) < FIRST_SILENCE_S / 2 + 0.1
    assert slow.silence_s(0) > FIRST_SILENCE_S + 20


def test_a_pause_is_not_taken_for_a_slow_link():
    window = Window(1, 0.0)
    receive(window, 1e8, 1.0)
    before = window.silence_s(0)
    window.note_pause()
    window.note_bytes(PIECE_BYTES, 1000.0)
    window.note_bytes(int(1e8), 1001.0)
    assert window.silence_s(0) == before
