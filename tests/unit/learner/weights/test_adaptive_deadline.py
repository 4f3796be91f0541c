from __future__ import annotations

import pytest
from prolong.learner.weights.adaptive_deadline import FIRST_S, Patience


def test_patience_is_two_seconds_and_twice_the_slowest_stage_that_went_well_lately() -> None:
    patience = Patience(60.0)
    assert patience.seconds == FIRST_S, "nothing is known yet"
    patience.went_well([0.01, 0.3, 0.1])
    assert patience.seconds == pytest.approx(2.6)
    patience.went_well([0.1, 0.2])
    assert patience.seconds == pytest.approx(2.6)
    for _ in range(20):
        patience.went_well([0.2])
    assert patience.seconds == pytest.approx(2.4), "a slow hour is forgotten"


def test_after_failures_patience_doubles_up_to_the_limit_until_a_broadcast_goes_well() -> None:
    patience = Patience(20.0)
    patience.went_well([0.5])
    seen = []
    for _ in range(5):
        patience.failed()
        seen.append(patience.seconds)
    assert seen == [6.0, 12.0, 20.0, 20.0, 20.0]
    patience.went_well([3.0])
    assert patience.seconds == pytest.approx(8.0)


def test_a_machine_that_needs_longer_than_the_patience_gets_there() -> None:
    patience, needs_s, attempts = Patience(60.0), 25.0, 0
    while patience.seconds < needs_s:
        patience.failed()
        attempts += 1
    patience.went_well([needs_s])
    assert attempts == 2
    assert patience.seconds > needs_s


def test_patience_never_exceeds_the_timeout() -> None:
    assert Patience(1.0).seconds == 1.0
