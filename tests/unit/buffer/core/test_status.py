"""The numbers that a status shows and that a batch carries."""

from __future__ import annotations

from prolong.common import messages as m

from ..scene import started


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
