"""When groups come back, how good that was foretold, and how long a ticket may take."""

from __future__ import annotations

import pytest
from prolong.buffer.forecast.forecast import Forecast, KnownActor
from prolong.common.types import Ticket, TicketKind

from ..scene import SAMPLING, group, prompt, rollout

TOKENS = 4
N = SAMPLING.n


def ticket(ordinal: int) -> Ticket:
    return Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=prompt(ordinal),
        sampling=SAMPLING,
        seed=0,
        generation=1,
        version=0,
        lease_s=1.0,
    )


def make_group(forecast: Forecast, ordinal: int, *, took_s: float, actor: str = "a") -> None:
    """An actor is given a ticket, and brings its group after `took_s`."""
    given = ticket(ordinal)
    forecast.note_issue(actor, given, N, now=100.0)
    forecast.note_group(given, group(given, *[rollout(0, tokens=TOKENS)] * N, actor=actor), N, now=100.0 + took_s)


def test_what_was_foretold_is_compared_with_what_a_group_took_once() -> None:
    forecast = Forecast()
    assert forecast.back_s("a", prompt(), SAMPLING, N) is None
    make_group(forecast, 0, took_s=2.0)
    assert forecast.metrics() == {}, "nothing was foretold of the first"
    assert forecast.back_s("a", prompt(1), SAMPLING, N) == pytest.approx(2.0, rel=0.02)
    make_group(forecast, 1, took_s=1.0)  # foretold twice that
    make_group(forecast, 2, took_s=6.0)  # foretold a quarter of that
    found = forecast.metrics()
    assert found["forecast/error_mean"] == pytest.approx((1.0 + 0.75) / 2, abs=0.05)
    assert found["forecast/bias"] == pytest.approx((1.0 - 0.75) / 2, abs=0.05)
    assert found["forecast/late"] == 0.5
    assert forecast.metrics() == {}


def test_actors_that_differ_are_unequal_and_the_plan_knows_who_is_slow() -> None:
    forecast = Forecast()
    workers = [KnownActor("fast", N), KnownActor("slow", N)]
    forecast.plan(workers, SAMPLING, batch=1, eta=0)
    assert (forecast.window_s, forecast.is_unequal) == (None, False)
    for ordinal in range(8):
        make_group(forecast, 2 * ordinal, took_s=1.0, actor="fast")
        make_group(forecast, 2 * ordinal + 1, took_s=10.0, actor="slow")
    forecast.plan(workers, SAMPLING, batch=1, eta=0)
    assert forecast.is_unequal
    assert forecast.window_s == pytest.approx(1.0, rel=0.05), "one place, which the fast one uses alone"
    assert forecast.metrics()["forecast/slow_actors"] == 1.0
    forecast.plan(workers[:1], SAMPLING, batch=1, eta=0)
    assert not forecast.is_unequal


def test_steps_of_the_learner_bound_the_window_from_below_and_its_absence_counts_as_none() -> None:
    forecast = Forecast()
    make_group(forecast, 0, took_s=1.0)
    forecast.note_served(10.0)
    forecast.note_asked(13.0)
    forecast.note_served(20.0)
    forecast.learner_starts()
    forecast.note_asked(900.0)
    forecast.plan([KnownActor("a", N)], SAMPLING, batch=1, eta=1)
    assert forecast.window_s == pytest.approx(6.0)


def test_a_slow_actor_is_tried_again_the_sooner_the_less_is_known_of_it() -> None:
    forecast = Forecast()
    for ordinal in range(40):
        make_group(forecast, ordinal, took_s=10.0, actor="slow")
    make_group(forecast, 40, took_s=10.0, actor="new")
    for seconds, tried in ((5, []), (15, ["new"]), (150, ["new"]), (250, ["new", "slow"])):
        found = [name for name in ("new", "slow") if forecast.is_out_of_sight(name, 10.0, 100.0 + seconds)]
        assert found == tried, seconds
