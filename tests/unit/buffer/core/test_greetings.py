"""Clients that greet: they arrive, reconnect, replace a process of their name, or are refused."""

from __future__ import annotations

from prolong.common import messages as m

from ..scene import Scene, config, group, only, rollout, started, tickets


def test_a_restarted_actor_replaces_its_dead_self_at_once() -> None:
    scene, work = started(eta=0, batch=2)
    scene.actor(pid=2)
    assert scene.counts == {"failed": 2, "total": 2}
    again = scene.weights(0)
    assert {t.prompt.uid for t in again} == {t.prompt.uid for t in work}


def test_the_same_actor_process_keeps_its_tickets_when_it_greets_again() -> None:
    scene, work = started(eta=0, batch=2)
    scene.say("socket-2", scene.hello(m.Role.actor, "actor-0", capacity=100, version=0))
    assert scene.counts == {"leased": 2, "total": 2}
    reply = scene.say("socket-2", m.GroupResult(group=group(work[0], rollout(0), rollout(0, reward=0.0))))
    assert only(reply, m.GroupAck).accepted


def test_a_container_that_restarts_with_the_same_process_id_is_another_actor() -> None:
    scene, _ = started(eta=0, batch=2)
    scene.actor(pid=1)  # says version -1: it holds no weights
    assert scene.counts == {"failed": 2, "total": 2}
    assert scene.publish(0).members == ["actor-0"]


def test_a_second_learner_is_refused_while_the_first_lives_and_welcome_after() -> None:
    scene, _ = started()
    scene.say("other", scene.hello(m.Role.learner, "learner", pid=2, version=0))
    refused = only(scene.say("other", scene.hello(m.Role.learner, "learner", pid=2, version=0)), m.Refused)
    assert refused.retry
    scene.say("actor-0", m.Heartbeat(), after_s=11.0)
    welcome = only(scene.say("other", scene.hello(m.Role.learner, "learner", pid=2, version=0)), m.Welcome)
    assert welcome.generation == 2


def test_a_stranger_is_asked_to_say_hello() -> None:
    scene = Scene(config())
    for message in (m.Heartbeat(), m.TakeBatch(generation=0, version=0), m.TicketReturned(ordinal=0, reason="")):
        assert only(scene.say("stranger", message), m.Alive).known is False


def test_an_observer_may_ask_and_do_nothing_else() -> None:
    scene, _ = started()
    assert only(scene.say("nobody", m.StatusRequest()), m.Status).balanced
    scene.say("watch", scene.hello(m.Role.observer, "watch", tokenizer=""))
    scene.say("watch", m.TakeBatch(generation=1, version=0))
    scene.say("watch", m.Cordon(epoch=1, names=["actor-0"]))
    assert scene.core.run.counters.total["buffer/misplaced_messages"] == 2
    assert not scene.core.run.membership.is_cordoned("actor-0")


def test_an_actor_whose_connection_broke_is_sent_again_what_it_may_not_have_heard_of() -> None:
    scene, work = started(eta=0, batch=2)
    heard = scene.say("socket-2", scene.hello(m.Role.actor, "actor-0", capacity=100, version=0))
    assert tickets(heard) == work
    scene.say("socket-2", m.GroupResult(group=group(work[0], rollout(0), rollout(0, reward=0.0))))
    heard = scene.say("socket-3", scene.hello(m.Role.actor, "actor-0", capacity=100, version=0))
    assert tickets(heard) == work[1:]
    assert scene.counts == {"leased": 1, "stored": 1, "total": 2}
    heard = scene.say("socket-4", scene.hello(m.Role.actor, "actor-0", capacity=100, version=0, pid=2))
    assert tickets(heard) == [], "another process has never heard of them, and holds no weights"
