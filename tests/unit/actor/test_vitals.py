"""When an actor counts as stuck, and what its endpoint tells."""

from __future__ import annotations

import pytest
from prolong.actor.stats import ActorStats
from prolong.actor.vitals import ActorVitals, RelayVitals, actor_metrics
from prolong.common.monitoring import vitals as module
from prolong.common.monitoring.exposition import MetricKind
from prolong.common.monitoring.vitals import Vitals

from tests.support.hand_clock import HandClock

LIMIT_S = 600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    return HandClock.of(monkeypatch, module)


def numbers(in_flight: float, tokens: float) -> dict[str, float]:
    return {"in_flight": in_flight, "engine_tokens": tokens, "busy_s": 1.0}


def test_an_actor_whose_rollouts_get_no_token_is_stuck_and_one_without_rollouts_waits(clock: HandClock) -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    told = ActorVitals(vitals, LIMIT_S)
    told.note(numbers(0.0, 5.0), 64, has_weights=True)
    clock.now += 2 * LIMIT_S
    told.note(numbers(0.0, 5.0), 64, has_weights=True)
    assert vitals.health().alive, "it waits for tickets, which is nothing that starting it again would change"
    told.note(numbers(16.0, 6.0), 64, has_weights=True)
    for _ in range(3):
        clock.now += LIMIT_S / 2
        told.note(numbers(16.0, 6.0), 64, has_weights=True)
    assert (vitals.health().alive, vitals.health().state) == (False, "generates")
    assert "nothing happened for 900 s, at most 600 s were expected" in vitals.health().reason
    told.note(numbers(16.0, 7.0), 64, has_weights=True)
    assert vitals.health().alive


def test_an_actor_whose_event_loop_stands_is_stuck(clock: HandClock) -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    ActorVitals(vitals, LIMIT_S).note(numbers(0.0, 5.0), 64, has_weights=True)
    clock.now += 1.01 * LIMIT_S
    assert not vitals.health().alive


def test_an_actor_without_weights_is_alive_and_not_ready() -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    ActorVitals(vitals, LIMIT_S).note(numbers(0.0, 0.0), 64, has_weights=False)
    health = vitals.health()
    assert (health.alive, health.ready, health.reason) == (True, False, "it waits for its first weights")


def test_what_an_actor_counts_is_a_counter_and_what_it_has_is_a_gauge() -> None:
    found = {metric.name: metric for metric in actor_metrics(ActorStats(0.5).snapshot(), 64)}
    assert {name for name, metric in found.items() if metric.kind is MetricKind.gauge} == {"actor_room", "actor_in_flight"}
    assert found["actor_busy_seconds"].full_name == "prolong_actor_busy_seconds_total"
    assert found["actor_engine_tokens"].full_name == "prolong_actor_engine_tokens_total"


def test_numbers_that_nobody_can_ask_for_are_not_made() -> None:
    vitals = Vitals("actor", "actor-0", "mine")
    own = len(vitals.metrics())
    ActorVitals(vitals, LIMIT_S).note(numbers(0.0, 0.0), 64, has_weights=True)
    assert len(vitals.metrics()) == own
    vitals.watched = True
    ActorVitals(vitals, LIMIT_S).note(numbers(0.0, 0.0), 64, has_weights=True)
    assert len(vitals.metrics()) == own + 4


def test_a_relay_is_ready_with_weights_and_stuck_when_its_loop_stands(clock: HandClock) -> None:
    vitals = Vitals("relay", "relay-0", "mine", watched=True)
    told = RelayVitals(vitals, LIMIT_S)
    told.note({"pulls": 0.0}, has_weights=False)
    assert (vitals.health().alive, vitals.health().ready) == (True, False)
    told.note({"pulls": 1.0}, has_weights=True)
    assert vitals.health().ready
    assert vitals.metrics()[-1].full_name == "prolong_relay_pulls_total"
    clock.now += 1.01 * LIMIT_S
    assert not vitals.health().alive
