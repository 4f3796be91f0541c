"""Pullers among the clients of a core: they get weights without a broadcast, and tickets as the contract admits."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.types import WeightSource

from ..scene import LEARNER, Scene, config, only, started, tickets

SERVES = WeightSource(endpoint="tcp://relay:1", key="k" * 40)


def pulling(**settings: object) -> Scene:
    """A scene with a learner that offers version 0, and one actor that pulls."""
    scene = Scene(config(**settings))  # pyright: ignore[reportArgumentType]
    scene.learner()
    scene.puller()
    scene.offer(0)
    return scene


def readers(messages: list) -> list[m.WeightReaders]:
    return [message for message in messages if isinstance(message, m.WeightReaders)]


def test_an_offer_reaches_the_pullers_and_an_acknowledgement_brings_tickets() -> None:
    scene = Scene(config())
    scene.learner()
    heard = scene.puller()
    assert [type(message) for message in heard] == [m.Welcome]
    heard = scene.offer(0)
    assert only(heard[LEARNER], m.OfferNoted).version == 0
    assert only(heard[b"actor-0"], m.UpdateWeights).version == 0
    assert len(tickets(scene.pulled("actor-0", 0))) == 4


def test_a_newcomer_gets_its_first_weights_without_the_others() -> None:
    scene = pulling()
    scene.pulled("actor-0", 0)
    heard = scene.say_all(b"actor-1", scene.hello(m.Role.actor, "actor-1", capacity=4, transport="pull"))
    assert [type(message) for message in heard[b"actor-1"]] == [m.Welcome, m.UpdateWeights]
    assert b"actor-0" not in heard


def test_broadcasts_know_nothing_of_pullers() -> None:
    scene, _ = started()
    scene.puller("actor-1")
    assert scene.publish(1).members == ["actor-0"]
    heard = scene.offer(1)
    assert b"actor-0" not in heard
    assert only(heard[b"actor-1"], m.UpdateWeights).epoch == -1
    scene.pulled("actor-1", 1)
    assert scene.core.run.version_of("actor-1") == 1
    scene.say(LEARNER, m.Cordon(epoch=1, names=["actor-1"]))
    assert scene.core.run.version_of("actor-1") == 1


def test_weights_with_other_checksums_cost_a_puller_its_tickets_and_groups() -> None:
    scene = pulling(batch=2, eta=0)
    work = tickets(scene.pulled("actor-0", 0))
    scene.result(work[0])
    assert tickets(scene.pulled("actor-0", 0, checksums=[99])) == []
    assert scene.counts == {"failed": 2, "total": 2}
    assert scene.core.status(scene.now).peers["actor-0"]["state"] == "cordoned"
    heard = scene.wait(2.0)
    only(heard[b"actor-0"], m.UpdateWeights)
    assert {t.prompt.uid for t in tickets(scene.pulled("actor-0", 0))} == {t.prompt.uid for t in work}


def test_a_puller_that_lags_gets_tickets_as_the_contract_admits_and_holds_nobody_up() -> None:
    scene = pulling(batch=1, eta=1, steps=10)
    scene.pulled("actor-0", 0)
    scene.say("slow", scene.hello(m.Role.actor, "slow", capacity=100, transport="pull", version=0, generation=1))
    work = [lease.ticket for lease in scene.core.run.leases.all()]
    for version in range(4):
        for ticket in work:
            scene.result(ticket)
        assert scene.take(version) is not None
        scene.done(version + 1)
        scene.offer(version + 1)
        work = tickets(scene.pulled("actor-0", version + 1))
        assert work, "the fast one goes on"
    assert scene.core.run.version_of("slow") == 0
    assert scene.core.run.leases.held_by("slow") == [], "version 0 may not be trained any more"
    about = scene.core.status(scene.now).peers["slow"]
    assert (about["state"], about["lag"], about["version"]) == ("pulls", 4.0, 0.0)


def test_the_learner_and_servers_hear_who_may_pull_when_it_changes() -> None:
    scene = Scene(config())
    scene.core.admit_keys(["k" * 40])
    assert readers(scene.learner()) == [], "without pullers there is nothing to say"
    heard = scene.say_all(b"relay", scene.hello(m.Role.relay, "relay-0", serves=SERVES))
    expected = m.WeightReaders(num_pullers=1, keys=["k" * 40])
    assert (readers(heard[LEARNER]), readers(heard[b"relay"])) == ([expected], [expected])
    heard = scene.say_all(b"actor-0", scene.hello(m.Role.actor, "actor-0", capacity=4, transport="pull"))
    assert LEARNER not in heard, "with thousands it would hear little else"
    assert not readers(heard[b"actor-0"]), "it serves nobody"
    heard = scene.wait(1.0)
    assert only(heard.pop(LEARNER), m.WeightReaders).num_pullers == 2
    assert heard == {}, "those who serve need the keys alone"
    scene.core.admit_keys(["q" * 40])
    heard = scene.wait(0.1)
    assert {identity: readers(heard[identity])[0].keys for identity in heard} == {LEARNER: ["q" * 40], b"relay": ["q" * 40]}
    assert scene.wait(0.1) == {}
    heard = scene.say_all(b"again", scene.hello(m.Role.relay, "relay-0", serves=SERVES, version=0, generation=1))
    assert readers(heard[b"again"]), "another connection hears it again"


def test_the_last_puller_that_leaves_is_noticed_by_the_learner() -> None:
    scene = pulling()
    heard = scene.say_all(b"actor-0", m.Leave(reason="SIGTERM"))
    assert readers(heard[LEARNER]) == [m.WeightReaders(num_pullers=0, keys=[])]


def test_a_relay_gets_weights_and_no_tickets_and_is_the_source_of_actors() -> None:
    scene = Scene(config())
    scene.learner()
    scene.say("relay-0", scene.hello(m.Role.relay, "relay-0", host="r", serves=SERVES, tokenizer=""))
    scene.puller(host="elsewhere")
    assert only(scene.offer(0)[b"relay-0"], m.UpdateWeights).version == 0
    assert tickets(scene.pulled("relay-0", 0, checksums=[])) == []
    assert len(tickets(scene.pulled("actor-0", 0))) == 4
    peers = scene.core.status(scene.now).peers
    assert (peers["relay-0"]["role"], peers["relay-0"]["state"], peers["relay-0"]["version"]) == ("relay", "ready", 0.0)
    assert peers["actor-0"]["sources"] == "relay-0, learner"
    assert "leases" not in peers["relay-0"]


def test_a_relay_leaves_falls_silent_and_shares_the_names_of_others() -> None:
    scene = Scene(config())
    scene.learner()
    nowhere = only(scene.say("relay-0", scene.hello(m.Role.relay, "relay-0")), m.Refused)
    assert "where it serves" in nowhere.reason
    scene.say("relay-0", scene.hello(m.Role.relay, "relay-0", serves=SERVES))
    taken = only(scene.puller("relay-0"), m.Refused)
    assert taken.retry
    scene.say("relay-0", m.Leave(reason="SIGTERM"))
    assert scene.core.run.pullers.servers() == []
    scene.say(LEARNER, m.Heartbeat(), after_s=11.0)
    scene.say("relay-0", scene.hello(m.Role.relay, "relay-0", serves=SERVES))
    scene.say(LEARNER, m.Heartbeat(), after_s=11.0)
    counters = scene.core.run.counters.total
    assert (counters["buffer/left_relays"], counters["buffer/lost_relays"]) == (1, 1)


def test_a_relay_may_not_send_what_actors_send() -> None:
    scene = Scene(config())
    scene.say("relay-0", scene.hello(m.Role.relay, "relay-0", serves=SERVES))
    scene.say("relay-0", m.TicketReturned(ordinal=0, reason=""))
    assert scene.core.run.counters.total["buffer/misplaced_messages"] == 1


def test_the_learner_is_asked_when_pullers_need_weights_that_nobody_offers() -> None:
    scene = Scene(config())
    scene.learner()
    scene.wait(3.0)
    heard = scene.say_all(b"actor-0", scene.hello(m.Role.actor, "actor-0", capacity=4, transport="pull"))
    assert "actor-0" in only(heard[LEARNER], m.SyncRequested).reason
    scene.offer(0)
    assert LEARNER not in scene.wait(30.0) or not any(isinstance(x, m.SyncRequested) for x in scene.wait(30.0)[LEARNER])


def test_an_actor_that_waits_for_broadcasts_hears_that_the_learner_makes_none() -> None:
    scene = Scene(config())
    scene.actor("early")
    learner = scene.hello(m.Role.learner, "learner", transport="pull")
    stop = only(scene.say_all(LEARNER, learner)[b"early"], m.Stop)
    assert stop.failed
    assert "weights.transport=pull" in stop.reason
    refused = only(scene.actor("late"), m.Refused)
    assert "weights.transport=pull" in refused.reason
    assert not refused.retry
    assert scene.wait(0.1) == {}, "it is said once"


def test_a_puller_keeps_its_tickets_and_weights_across_a_restart_of_the_buffer() -> None:
    scene = pulling()
    work = tickets(scene.pulled("actor-0", 0))
    scene.restart()
    scene.learner(version=0, generation=1)
    heard = scene.puller(version=0, generation=1)
    assert tickets(heard) == work
    assert scene.core.run.version_of("actor-0") == 0
    assert only(scene.offer(0)[b"actor-0"], m.UpdateWeights).version == 0
    scene.pulled("actor-0", 0)
    assert scene.counts == {"leased": 4, "total": 4}


def test_a_run_ends_for_relays_too() -> None:
    scene = Scene(config(steps=1))
    scene.learner()
    scene.say("relay-0", scene.hello(m.Role.relay, "relay-0", serves=SERVES))
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=0))
    only(heard[b"relay-0"], m.Stop)
