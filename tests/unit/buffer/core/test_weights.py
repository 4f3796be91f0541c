"""The learner is asked for weights, and actors that got wrong ones lose what they made with them."""

from __future__ import annotations

from prolong.common import messages as m

from ..scene import LEARNER, only, started


def test_weights_that_differ_from_what_was_sent_cost_the_actor_its_tickets_and_groups() -> None:
    scene, work = started(batch=2, eta=0)
    scene.result(work[0])
    scene.say(LEARNER, m.Cordon(epoch=1, names=["actor-0"]))
    assert scene.counts == {"failed": 2, "total": 2}
    again = scene.weights(0)
    assert {t.prompt.uid for t in again} == {t.prompt.uid for t in work}


def test_the_learner_is_asked_for_weights_when_an_actor_joins() -> None:
    scene, _ = started()
    scene.wait(3.0)
    heard = scene.say_all(b"actor-1", scene.hello(m.Role.actor, "actor-1", capacity=4))
    assert "actor-1" in only(heard[LEARNER], m.SyncRequested).reason
