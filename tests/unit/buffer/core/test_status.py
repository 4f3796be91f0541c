"""The numbers that a status shows and that a batch carries."""

from __future__ import annotations

from prolong.buffer.core.status import MAX_PEERS
from prolong.common import messages as m

from ..scene import only, started


def test_status_says_who_does_what() -> None:
    scene, _ = started(batch=2, eta=0)
    scene.actor("actor-1")
    scene.say("actor-0", m.Heartbeat(stats={"busy_s": 3.0}))
    status = scene.core.status(scene.now)
    assert (status.run, status.generation, status.version, status.steps, status.balanced) == ("scene", 1, 0, 10, True)
    assert status.ledger["leased"] == 2
    about = status.peers["actor-0"]
    assert (about["role"], about["state"], about["leases"], about["rollouts"], about["busy_s"]) == ("actor", "ready", 2, 4, 3)
    assert status.peers["actor-1"]["state"] == "waits for weights"
    assert status.peers["learner"]["role"] == "learner"


def test_actor_numbers_reach_the_batch_as_what_grew() -> None:
    scene, work = started(batch=1, eta=1)
    for ticket in work:
        scene.result(ticket)
    scene.say("actor-0", m.Heartbeat(stats={"busy_s": 3.0}))
    first = scene.take(0)
    scene.say("actor-0", m.Heartbeat(stats={"busy_s": 5.0}))
    second = scene.take(1)
    assert first is not None
    assert second is not None
    assert (first.metrics["actor/busy_s"], second.metrics["actor/busy_s"]) == (3.0, 2.0)
    assert first.metrics["buffer/ledger_batched"] == 1.0


def test_the_batch_says_how_far_actors_are_behind_and_the_status_what_each_received() -> None:
    scene, work = started(batch=1, eta=1)
    scene.puller("actor-1", version=0, generation=1)
    scene.actor("actor-2")
    for ticket in work:
        scene.result(ticket)
    assert scene.take(0) is not None
    scene.done(1)
    scene.weights(1)
    scene.offer(0)
    batch = scene.take(1)
    assert batch is not None
    assert (batch.metrics["weights/lag_mean"], batch.metrics["weights/lag_max"]) == (1 / 3, 1.0)
    scene.pulled("actor-1", 0, num_bytes=3000, pull_s=1.5)
    scene.offer(1)
    scene.pulled("actor-1", 1, num_bytes=500, pull_s=0.5)
    status = scene.core.status(scene.now)
    about = status.peers["actor-1"]
    assert [about[key] for key in ("transport", "version", "lag", "state")] == ["pull", 1.0, 0.0, "ready"]
    assert [about[key] for key in ("num_updates", "update_bytes", "update_s")] == [2.0, 500.0, 0.5]
    assert [about[key] for key in ("updates_bytes", "updates_s", "sources")] == [3500.0, 2.0, "learner"]
    assert (status.counters["buffer/pulls"], status.counters["buffer/pulled_bytes"]) == (2, 3500)
    assert status.peers["actor-0"]["transport"] == "collective"


def test_a_status_of_a_thousand_clients_tells_of_those_that_lack_weights_lag_or_are_silent() -> None:
    scene, _ = started(batch=2, eta=0)
    for index in range(1, 1001):
        scene.puller(f"actor-{index}", version=-1 if index == 500 else 0, generation=1)
        if index == 700:
            scene.now += 1.0
    scene.say("actor-1", m.Heartbeat())
    status = scene.core.status(scene.now)
    assert (len(status.peers), status.num_peers) == (MAX_PEERS, 1002)
    assert status.peers["learner"]["role"] == "learner"
    assert status.peers["actor-500"]["state"] == "waits for weights"
    assert {"actor-0", "actor-2"} <= status.peers.keys(), "silent for a second"


def test_thousands_of_clients_are_asked_for_fewer_heartbeats_and_a_few_for_all() -> None:
    scene, _ = started(batch=2, eta=0)

    def pause_s() -> float:
        return only(scene.say("actor-0", m.Heartbeat()), m.Alive).heartbeat_s

    assert pause_s() == 1.0, "buffer.heartbeat_s"
    welcome = only(scene.say("observer-0", scene.hello(m.Role.observer, "observer-0")), m.Welcome)
    for index in range(2, 10_000):
        scene.core.peers.join(b"%d" % index, scene.hello(m.Role.observer, f"observer-{index}"), scene.now)
    assert welcome.heartbeat_s == 1.0
    assert pause_s() == 2.5, "at most a quarter of buffer.silence_s"
