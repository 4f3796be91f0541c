"""The tickets that actors are given, and what becomes of those that yield no group."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.config.sections import ValidationConfig

from ..scene import LEARNER, Scene, config, only, started, tickets


def test_an_actor_without_acknowledged_weights_gets_no_ticket() -> None:
    scene = Scene(config())
    assert tickets(scene.actor()) == []
    assert tickets(scene.learner()) == []
    plan = scene.publish(0)
    assert plan.members == ["actor-0"]
    assert scene.counts == {}
    assert len(tickets(scene.apply("actor-0", 0))) == 4  # (eta + 1) B


def test_a_lease_that_runs_out_is_reissued_for_the_same_prompt_and_the_late_group_refused() -> None:
    scene, work = started(lease_s=60.0, eta=0, batch=1)
    for _ in range(9):
        scene.say("actor-0", m.Heartbeat(), after_s=6.0)
        scene.say(LEARNER, m.Heartbeat())
    heard = scene.say("actor-0", m.Heartbeat(), after_s=6.0)
    (again,) = tickets(heard)
    assert again.prompt == work[0].prompt
    assert not scene.result(work[0]).accepted
    assert scene.result(again).accepted
    assert scene.counts == {"stored": 1, "failed": 1, "total": 2}


def test_a_silent_actor_loses_its_tickets_to_another() -> None:
    scene, work = started(eta=0, batch=2)
    scene.actor("actor-1")
    scene.weights(0)
    for _ in range(3):
        scene.say("actor-1", m.Heartbeat(), after_s=3.0)
        scene.say(LEARNER, m.Heartbeat())
    taken_over = tickets(scene.say("actor-1", m.Heartbeat(), after_s=3.0))
    assert {t.prompt.uid for t in taken_over} == {t.prompt.uid for t in work}
    assert only(scene.say("actor-0", m.Heartbeat()), m.Alive).known is False


def test_a_returned_ticket_is_reissued() -> None:
    scene, work = started(eta=0, batch=2)
    (again,) = tickets(scene.say("actor-0", m.TicketReturned(ordinal=work[0].ordinal, reason="stopping")))
    assert again.prompt == work[0].prompt
    scene.say("actor-0", m.TicketReturned(ordinal=work[0].ordinal, reason="twice"))
    assert scene.counts == {"leased": 2, "failed": 1, "total": 3}


def test_capacity_bounds_rollouts_in_flight_but_never_to_nothing() -> None:
    scene = Scene(config(batch=8))
    scene.actor("large", capacity=6)
    scene.actor("tiny", capacity=1)
    scene.learner()
    scene.publish(0)
    assert len(tickets(scene.apply("large", 0))) == 3
    assert len(tickets(scene.apply("tiny", 0))) == 1  # n = 2 > capacity, but it would starve


def test_tickets_are_shared_by_free_capacity() -> None:
    scene = Scene(config(batch=4, eta=1))
    for name, capacity in (("a", 4), ("b", 12)):
        scene.actor(name, capacity=capacity)
    scene.learner()
    plan = scene.publish(0)
    heard = {name: len(tickets(scene.say(name, m.Heartbeat()))) for name in plan.members}
    assert heard == {"a": 0, "b": 0}
    for name in plan.members:
        scene.core.run.membership.applied(
            name, m.WeightsApplied(generation=1, version=0, epoch=plan.epoch, checksums=[], seconds=0.0)
        )
        scene.core.dispatch.touch(name)
    heard = scene.wait(0.0)
    assert {name: len(tickets(heard[name.encode()])) for name in plan.members} == {"a": 2, "b": 6}


def test_an_actor_gets_as_much_as_its_last_heartbeat_has_room_for() -> None:
    scene = Scene(config(batch=8))
    scene.actor(capacity=12)
    scene.learner()
    scene.publish(0)
    scene.say("actor-0", m.Heartbeat(room=4))
    assert len(tickets(scene.apply("actor-0", 0))) == 2
    assert tickets(scene.say("actor-0", m.Heartbeat())) == []  # one that tells no room changes nothing
    assert len(tickets(scene.say("actor-0", m.Heartbeat(room=8)))) == 2
    assert len(tickets(scene.say("actor-0", m.Heartbeat(room=100)))) == 2  # its capacity is the most
    assert scene.core.status(scene.now).peers["actor-0"]["room"] == 12


def test_a_lost_validation_ticket_is_asked_again_of_another_actor() -> None:
    scene = Scene(config(validation=ValidationConfig(greedy=False)), heldout=1)
    scene.actor()
    scene.learner()
    (lost,) = scene.weights(0)
    scene.actor(pid=2)
    (again,) = scene.weights(0)
    assert again.prompt == lost.prompt
    assert again.ordinal != lost.ordinal
    assert scene.counts == {}
