"""What an engine had to do, as it travels from its process to the metrics."""

from __future__ import annotations

from prolong.actor.engines.load import EngineLoad
from prolong.actor.stats import ActorStats


def test_a_load_is_the_same_at_the_other_end() -> None:
    load = EngineLoad()
    for kv_use in (0.1, 0.7):
        load.step(tokens=3, running=4, waiting=2, kv_use=kv_use)
    load.preemptions += 1
    assert EngineLoad.decode(load.encode()) == load == EngineLoad(2, 6, 8, 4, 0.1 + 0.7, 1)


def test_an_actors_heartbeat_holds_the_load_of_its_engine() -> None:
    loads = [EngineLoad(tokens=5.0), EngineLoad(tokens=9.0)]
    stats = ActorStats(0.2, load=lambda: loads.pop(0))
    assert [stats.snapshot()["engine_tokens"] for _ in range(2)] == [5.0, 9.0]
