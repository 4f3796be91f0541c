"""What a batch waits for is named, with the actor and the reason."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.types import Ticket

from ..scene import LEARNER, Scene, config, tickets


def waiting() -> tuple[Scene, Ticket, Ticket]:
    """A learner that waits for the tickets of two actors, of which nothing came; the scene's bound is 0."""
    scene = Scene(config(batch=2, eta=0, lease_s=600.0))
    for name in ("fast", "slow"):
        scene.actor(name, capacity=2)
    scene.learner()
    scene.publish(0)
    (first,), (second,) = tickets(scene.apply("fast", 0)), tickets(scene.apply("slow", 0))
    assert scene.take(0) is None
    return scene, first, second


def beat(scene: Scene, *names: str, seconds: int) -> None:
    for _ in range(seconds):
        scene.wait(1.0)
        for name in names:
            scene.say(name, m.Heartbeat())
        scene.say(LEARNER, m.Heartbeat())


def sentence(scene: Scene) -> str:
    return scene.core.status(scene.now).waits_for


def test_nobody_is_named_within_the_first_second() -> None:
    scene, _, _ = waiting()
    assert sentence(scene) == ""
    scene.wait(0.5)
    assert sentence(scene) == ""


def test_an_actor_that_is_silent_is_named() -> None:
    scene, first, _ = waiting()
    scene.result(first, name="fast")
    beat(scene, "fast", seconds=6)
    assert sentence(scene) == "batch 0 waits 6 s for slow: 1 ticket of math/sum, silent since 6 s"


def test_an_actor_that_is_slower_than_foretold_is_told_from_a_long_answer() -> None:
    scene, first, second = waiting()
    forecast = scene.core.run.forecast
    scene.result(first, name="fast")
    scene.result(second, name="slow")
    scene.done(1)
    scene.weights(1)
    given = {ticket.ordinal: lease.actor for lease in scene.core.run.leases.all() for ticket in [lease.ticket]}
    assert set(given.values()) == {"fast", "slow"}
    scene.say(LEARNER, m.TakeBatch(generation=scene.generation, version=1))
    beat(scene, "fast", "slow", seconds=10)
    assert "a long answer, 10 s instead of" in sentence(scene)
    assert forecast.back_s("slow", first.prompt, first.sampling, 2) is not None
    sums = {"engine_steps": 10.0, "engine_running": 20.0, "busy_s": 100.0}
    scene.say("slow", m.Heartbeat(stats=sums))
    for count in range(2, 40):
        scene.say("slow", m.Heartbeat(stats={key: number * count for key, number in sums.items()}))
    beat(scene, "fast", "slow", seconds=2)
    assert "waits 12 s for slow: 1 ticket of math/sum" in sentence(scene)
    assert "slower than foretold; and for 1 ticket of 1 other" in sentence(scene)


def test_what_was_named_is_counted_when_the_batch_is_there() -> None:
    scene, first, second = waiting()
    scene.result(first, name="fast")
    beat(scene, "fast", seconds=6)
    scene.result(second, name="slow")
    assert sentence(scene) == ""
    assert scene.core.run.counters.total["buffer/stragglers_silent"] == 1


def test_an_actor_that_is_asked_for_few_heartbeats_is_not_silent_between_them() -> None:
    scene, first, _ = waiting()
    scene.result(first, name="fast")
    for index in range(10_000):
        scene.core.peers.join(b"%d" % index, scene.hello(m.Role.observer, f"observer-{index}"), scene.now)
    beat(scene, "fast", seconds=6)
    assert sentence(scene) == "batch 0 waits 6 s for slow: 1 ticket of math/sum, under way for 6 s"


def test_nobody_is_named_any_more_once_the_learner_is_gone() -> None:
    scene, _, _ = waiting()
    beat(scene, "fast", "slow", seconds=3)
    assert sentence(scene)
    for _ in range(12):
        scene.wait(1.0)
        for name in ("fast", "slow"):
            scene.say(name, m.Heartbeat())
    assert sentence(scene) == ""
    scene.learner(pid=2, version=0, generation=1)
    assert scene.take(0) is None
    beat(scene, "fast", "slow", seconds=2)
    assert sentence(scene).startswith("batch 0 waits 2 s for")
