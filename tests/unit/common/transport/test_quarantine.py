"""A sender of many malformed frames is ignored for a while; a stray frame is forgiven."""

from prolong.common.transport.quarantine import MAX_SENDERS, REST_S, STRIKES, WINDOW_S, Quarantine


def test_the_kth_malformed_frame_within_the_window_starts_it_and_time_ends_it():
    quarantine = Quarantine()
    assert [quarantine.strike(b"a", 0.1 * n) for n in range(STRIKES)] == [False] * (STRIKES - 1) + [True]
    start = 0.1 * (STRIKES - 1)
    assert quarantine.holds(b"a", start + REST_S - 0.1)
    assert quarantine.held(start + 1.0) == {b"a": REST_S - 1.0}
    assert not quarantine.holds(b"b", start)
    assert not quarantine.holds(b"a", start + REST_S)
    assert quarantine.held(start + REST_S) == {}
    assert not quarantine.strike(b"a", start + REST_S)


def test_a_stray_malformed_frame_now_and_then_is_forgiven():
    quarantine = Quarantine()
    assert not any(quarantine.strike(b"a", n * WINDOW_S / (STRIKES - 2)) for n in range(20 * STRIKES))


def test_a_flood_of_senders_is_remembered_in_bounded_space():
    quarantine = Quarantine()
    for number in range(2 * MAX_SENDERS):
        for _ in range(STRIKES if number % 2 else 1):
            quarantine.strike(str(number).encode(), 0.0)
    assert len(quarantine.held(0.0)) <= MAX_SENDERS
    assert len(quarantine._strikes) <= MAX_SENDERS
    assert quarantine.holds(str(2 * MAX_SENDERS - 1).encode(), 1.0)
