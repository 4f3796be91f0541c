from __future__ import annotations

import pytest
from prolong.learner.weights.adaptive_deadline import FIRST_S, AdaptiveDeadline


def test_the_deadline_is_two_seconds_and_twice_the_slowest_phase_that_went_well_lately() -> None:
    deadline = AdaptiveDeadline(60.0)
    assert deadline.phase_timeout_s == FIRST_S, "nothing is known yet"
    deadline.succeeded([0.01, 0.3, 0.1])
    assert deadline.phase_timeout_s == pytest.approx(2.6)
    deadline.succeeded([0.1, 0.2])
    assert deadline.phase_timeout_s == pytest.approx(2.6)
    for _ in range(20):
        deadline.succeeded([0.2])
    assert deadline.phase_timeout_s == pytest.approx(2.4), "a slow hour is forgotten"


def test_after_failures_the_deadline_doubles_up_to_the_limit_until_a_broadcast_goes_well() -> None:
    deadline = AdaptiveDeadline(20.0)
    deadline.succeeded([0.5])
    seen = []
    for _ in range(5):
        deadline.failed()
        seen.append(deadline.phase_timeout_s)
    assert seen == [6.0, 12.0, 20.0, 20.0, 20.0]
    deadline.succeeded([3.0])
    assert deadline.phase_timeout_s == pytest.approx(8.0)


def test_a_machine_that_needs_longer_than_the_deadline_gets_there() -> None:
    deadline, needs_s, attempts = AdaptiveDeadline(60.0), 25.0, 0
    while deadline.phase_timeout_s < needs_s:
        deadline.failed()
        attempts += 1
    deadline.succeeded([needs_s])
    assert attempts == 2
    assert deadline.phase_timeout_s > needs_s


def test_the_deadline_never_exceeds_the_timeout() -> None:
    assert AdaptiveDeadline(1.0).phase_timeout_s == 1.0
