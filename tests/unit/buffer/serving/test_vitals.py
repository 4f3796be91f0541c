"""What the buffer's endpoint tells of a status, and when it is not ready."""

from __future__ import annotations

from prolong.buffer.serving.vitals import EVERY_S, BufferVitals, buffer_metrics
from prolong.common.errors import JournalFull
from prolong.common.messages import Status
from prolong.common.monitoring.vitals import Vitals

STATUS = Status(
    run="mine",
    generation=2,
    version=7,
    steps=80,
    ledger={"issued": 0, "stored": 3, "trained": 14, "total": 17},
    balanced=True,
    peers={
        "learner": {"role": "learner", "state": "connected", "silence_s": 0.1},
        "a": {"role": "actor", "pool": "big", "room": 64.0, "lag": 1.0, "busy_s": 9.5, "host": "h", "silence_s": 0.5},
    },
    counters={"buffer/lost_actors": 3},
    validation=[],
    eta=2,
    num_peers=2,
)


class Core:
    num_asked = 0

    def status(self, now: float) -> Status:
        self.num_asked += 1
        return STATUS


def test_a_status_becomes_numbers_with_labels() -> None:
    found = {(metric.full_name, *metric.labels.values()): metric.value for metric in buffer_metrics(STATUS)}
    assert found["prolong_buffer_tickets", "stored"] == 3
    assert ("prolong_buffer_tickets", "total") not in found
    assert found["prolong_buffer_lost_actors_total",] == 3
    # "role" is that of the buffer itself, on every number
    assert all(not {"run", "role", "process"} & set(metric.labels) for metric in buffer_metrics(STATUS))
    assert found["prolong_buffer_clients", "actor"] == 1
    assert found["prolong_buffer_actor_lag", "a", "big"] == 1
    assert found["prolong_buffer_actor_busy_seconds_total", "a", "big"] == 9.5
    assert found["prolong_buffer_actor_silence_seconds", "a", "big"] == 0.5
    assert ("prolong_buffer_actor_leases", "a", "big") not in found, "what an actor did not tell is left out"


def test_the_core_is_looked_at_once_a_second_and_a_full_disk_makes_it_not_ready() -> None:
    vitals, core = Vitals("buffer", "buffer", "mine"), Core()
    told = BufferVitals(vitals, core)
    for tick in range(10):
        told.note(tick * EVERY_S / 10, None)
    assert core.num_asked == 1
    assert vitals.health().ready
    told.note(2 * EVERY_S, JournalFull("the journal is full"))
    health = vitals.health()
    assert (health.alive, health.ready, health.reason) == (True, False, "the journal is full")
    told.note(4 * EVERY_S, None)
    assert vitals.health().ready
