"""An actor that would be late is held back, and tried again after a while: nothing else shows that it is faster now."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.types import Ticket

from ..scene import LEARNER, Scene, config, tickets

STEP = {"engine_steps": 10.0, "engine_running": 20.0, "busy_s": 100.0}  # of the slow actor, ten seconds each


def given(scene: Scene) -> dict[str, Ticket]:
    """The ticket of each actor that has one."""
    return {lease.actor: lease.ticket for lease in scene.core.run.leases.all()}


def pass_time(scene: Scene, seconds: int) -> None:
    for _ in range(seconds // 5):
        scene.wait(5.0)
        for name in ("fast", "slow", LEARNER):
            scene.say(name, m.Heartbeat())


def test_an_actor_that_is_late_with_everything_is_tried_again_after_many_times_as_long() -> None:
    scene = Scene(config(batch=2, eta=0, lease_s=1e6))
    for name in ("fast", "slow"):
        scene.actor(name, capacity=2)
    scene.learner()
    scene.publish(0)
    (first,), (second,) = tickets(scene.apply("fast", 0)), tickets(scene.apply("slow", 0))
    scene.take(0)
    scene.wait(0.5)
    scene.result(first, name="fast")
    scene.result(second, name="slow")
    for count in range(1, 40):
        scene.say("slow", m.Heartbeat(stats={key: number * count for key, number in STEP.items()}))
    back_s = scene.core.run.forecast.back_s("slow", first.prompt, first.sampling, 2)
    assert back_s is not None
    scene.done(1)
    scene.weights(1)
    assert set(given(scene)) == {"fast"}, "the fast one will make both groups"
    scene.result(given(scene)["fast"], name="fast")
    assert set(given(scene)) == {"fast"}
    pass_time(scene, int(15 * back_s))
    assert set(given(scene)) == {"fast"}
    pass_time(scene, int(10 * back_s))
    scene.result(given(scene)["fast"], name="fast")
    scene.take(1)
    scene.done(2)
    scene.weights(2)
    assert set(given(scene)) == {"fast", "slow"}
