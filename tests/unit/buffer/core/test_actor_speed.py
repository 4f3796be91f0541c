"""The speed of engines, from the sums that actors count."""

from __future__ import annotations

import pytest
from prolong.buffer.core.actor_speed import speed_metrics
from prolong.buffer.core.peers import MAX_NUMBERS, Peers
from prolong.common.messages import PROTOCOL_VERSION, Hello, Role

COUNTS = {
    "engine_steps": 10.0, "engine_tokens": 400.0, "engine_running": 50.0, "engine_waiting": 20.0, "engine_kv_use": 2.5,
    "engine_preemptions": 3.0, "busy_s": 3.0, "idle_s": 0.5, "weights_s": 0.5,
}  # fmt: skip


def test_rates_and_rollouts_add_up_over_actors_and_the_use_of_the_cache_is_a_mean() -> None:
    other = COUNTS | {"engine_kv_use": 7.5, "engine_tokens": 800.0, "engine_running": 70.0}
    metrics = speed_metrics({"a": COUNTS, "b": other, "idle": {"idle_s": 4.0}})
    assert {name: number for name, number in metrics.items() if "/a" in name.removeprefix("perf/actor")} == {
        "perf/actor_tokens_per_s/a": 100.0,
        "perf/actor_running/a": 5.0,
        "perf/actor_waiting/a": 2.0,
        "perf/actor_kv_use/a": 0.25,
        "perf/actor_preemptions/a": 3.0,
    }
    assert {name: number for name, number in metrics.items() if name.count("/") == 1} == pytest.approx(
        {
            "perf/actor_tokens_per_s": 300.0,
            "perf/actor_running": 12.0,
            "perf/actor_waiting": 4.0,
            "perf/actor_kv_use": 0.5,
            "perf/actor_preemptions": 6.0,
        }
    )
    assert speed_metrics({"idle": {"idle_s": 4.0}}) == {}


def test_numbers_that_an_actor_does_not_count_are_0() -> None:
    """Heartbeats come from outside."""
    assert speed_metrics({"a": {"engine_steps": 10.0, "busy_s": 3.0}})["perf/actor_tokens_per_s/a"] == 0.0


def test_a_batch_carries_the_speed_since_the_one_before() -> None:
    peers = Peers()
    hello = Hello(role=Role.actor, name="a", protocol=PROTOCOL_VERSION, tokenizer="t", host="h", pid=1)
    actor = peers.join(b"1", hello, 0.0)
    actor.heard_stats(COUNTS)
    assert peers.actor_metrics()["perf/actor_tokens_per_s"] == 100.0
    actor.heard_stats({name: number + 1.0 for name, number in COUNTS.items()})
    second = peers.actor_metrics()
    assert second["perf/actor_tokens_per_s"] == pytest.approx(1 / 3)
    assert second["actor/engine_tokens"] == 1.0


def test_the_actors_of_a_pool_have_numbers_of_their_own() -> None:
    other = COUNTS | {"engine_tokens": 800.0, "engine_kv_use": 7.5}
    metrics = speed_metrics({"a": COUNTS, "b": other, "c": COUNTS, "d": COUNTS}, {"a": "large", "b": "large", "c": "small"})
    speeds = {name: number for name, number in metrics.items() if name.startswith("perf/pool_tokens_per_s/")}
    assert speeds == {"perf/pool_tokens_per_s/large": 300.0, "perf/pool_tokens_per_s/small": 100.0}
    assert metrics["perf/pool_kv_use/large"] == pytest.approx(0.5)
    assert metrics["perf/actor_tokens_per_s"] == 500.0


def test_a_batch_tells_the_room_of_all_actors_and_the_speed_of_their_pools() -> None:
    peers = Peers()
    fields = {"role": Role.actor, "protocol": PROTOCOL_VERSION, "tokenizer": "t", "host": "h", "pid": 1, "capacity": 8}
    for name, pool in (("a", "large"), ("b", "")):
        peers.join(name.encode(), Hello(name=name, pool=pool, **fields), 0.0).heard_stats(COUNTS)  # pyright: ignore[reportArgumentType]
    peers.actors()[0].heard_room(4)
    metrics = peers.actor_metrics()
    assert metrics["actor/room"] == 12.0
    assert {name for name in metrics if name.startswith("perf/pool_running")} == {"perf/pool_running/large"}


def test_a_step_of_many_actors_tells_the_slowest_and_the_fastest_instead_of_each() -> None:
    grown = {f"a{index}": COUNTS | {"engine_tokens": 4.0 * index} for index in range(101)}
    metrics = speed_metrics(grown, {"a1": "large"})
    spread = [metrics[f"perf/actor_tokens_per_s_{which}"] for which in ("min", "median", "max")]
    assert spread == [0.0, 50.0, 100.0]
    assert len(metrics) == 5 * 3 + 5 + 5, "least, median and greatest; of all; of the pool"


def test_actors_cannot_fill_the_record_of_a_step_with_names() -> None:
    peers = Peers()
    for index in range(4):
        hello = Hello(role=Role.actor, name=f"a{index}", protocol=PROTOCOL_VERSION, tokenizer="t", host="h", pid=1)
        peers.join(b"%d" % index, hello, 0.0).heard_stats({f"number_{index}_{k}": 1.0 for k in range(200)})
    metrics = peers.actor_metrics()
    assert metrics.pop("actor/numbers_left_out") == 2 + 4 * 200 - MAX_NUMBERS
    assert len(metrics) == MAX_NUMBERS
