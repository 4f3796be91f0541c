"""The rules of the core, one by one, as its clients see them."""

from __future__ import annotations

import pytest
from prolong.common import messages as m
from prolong.common.config.sections import Straggler, ValidationConfig
from prolong.common.types import Ticket, TicketKind

from ..scene import LEARNER, Scene, config, group, only, rollout, tickets


def started(**settings: object) -> tuple[Scene, list]:
    """A scene with a learner and one actor that holds version 0; and the tickets that it got."""
    scene = Scene(config(**settings))  # pyright: ignore[reportArgumentType]
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)


def test_an_actor_without_acknowledged_weights_gets_no_ticket() -> None:
    scene = Scene(config())
    assert tickets(scene.actor()) == []
    assert tickets(scene.learner()) == []
    plan = scene.publish(0)
    assert plan.members == ["actor-0"]
    assert scene.counts == {}
    assert len(tickets(scene.apply("actor-0", 0))) == 4  # (eta + 1) B


def test_a_run_of_three_steps_ends_with_every_ticket_accounted_for() -> None:
    scene, work = started(steps=3, eta=1, batch=2)
    for version in range(3):
        for ticket in work:
            assert scene.result(ticket).accepted
        batch = scene.take(version)
        assert batch is not None
        assert [g.ordinal for g in batch.groups] == [2 * version, 2 * version + 1]
        scene.done(version + 1)
        work = scene.weights(version + 1)
    assert scene.counts == {"trained": 6, "total": 6}
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=3))
    assert only(heard[LEARNER], m.Finished).status.ledger["trained"] == 6
    assert only(heard[b"actor-0"], m.Stop).failed is False


def test_the_batch_is_answered_as_soon_as_the_missing_group_arrives() -> None:
    scene, work = started(eta=0, batch=2)
    scene.result(work[0])
    assert scene.take(0) is None
    heard = scene.say_all(b"actor-0", m.GroupResult(group=group(work[1], rollout(0), rollout(0, reward=0.0))))
    batch = only(heard[LEARNER], m.BatchReady).batch
    assert [g.ordinal for g in batch.groups] == [0, 1]
    assert batch.metrics["buffer/staleness_max"] == 0.0


def test_a_group_sent_twice_is_trained_once() -> None:
    scene, work = started()
    assert scene.result(work[0]).accepted
    again = scene.result(work[0])
    assert not again.accepted
    assert scene.counts == {"leased": 3, "stored": 1, "total": 4}
    assert scene.core.run.counters.total["buffer/duplicates"] == 1


def test_a_group_of_another_generation_ticket_or_actor_is_refused() -> None:
    scene, work = started()
    scene.actor("actor-1")
    dead = group(work[0], rollout(0), rollout(0, reward=0.0))
    for refused in (
        m.GroupResult(group=group(work[0].__class__(**{**_fields(work[0]), "generation": 9}), rollout(0), rollout(0))),
        m.GroupResult(group=group(work[0].__class__(**{**_fields(work[0]), "ordinal": 99}), rollout(0), rollout(0))),
    ):
        assert not only(scene.say("actor-0", refused), m.GroupAck).accepted
    stolen = only(scene.say("actor-1", m.GroupResult(group=dead)), m.GroupAck)
    assert "was given to actor-0" in stolen.reason
    assert scene.counts == {"leased": 4, "total": 4}


def _fields(struct: object) -> dict:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("versions", [(7,), (0, 7)])
def test_tokens_of_a_version_that_there_is_not_make_the_group_fail(versions: tuple[int, ...]) -> None:
    scene, work = started()
    ack = scene.result(work[0], *versions)
    assert "are not in 0..0" in ack.reason
    assert scene.counts["failed"] == 1


def test_tokens_older_than_the_ticket_make_the_group_fail() -> None:
    scene, work = started(batch=1, eta=1)
    scene.result(work[0])
    scene.take(0)
    scene.done(1)
    (ticket,) = scene.weights(1)
    assert ticket.version == 1
    assert "versions 0..1 are not in 1..1" in scene.result(ticket, 0, 1).reason


def test_a_group_with_one_rollout_left_fails_and_its_prompt_is_issued_again_first() -> None:
    scene, work = started()
    heard = scene.say("actor-0", m.GroupResult(group=group(work[1], rollout(0))))
    assert only(heard, m.GroupAck).accepted
    (again,) = tickets(heard)
    assert again.prompt == work[1].prompt
    assert again.ordinal == 4
    assert scene.counts == {"leased": 4, "failed": 1, "total": 5}


def test_a_group_without_signal_is_filtered_and_replaced_by_the_next_prompt() -> None:
    scene, work = started()
    heard = scene.say("actor-0", m.GroupResult(group=group(work[0], rollout(0), rollout(0))))
    assert only(heard, m.GroupAck).accepted
    (replacement,) = tickets(heard)
    assert replacement.prompt.uid not in {ticket.prompt.uid for ticket in work}
    assert scene.counts == {"leased": 4, "filtered": 1, "total": 5}


def test_above_the_cap_groups_without_signal_are_kept() -> None:
    scene, work = started(max_filtered=0.5)
    for ticket in work[:2]:
        scene.result(ticket, spread=False)
    assert scene.counts == {"leased": 3, "stored": 1, "filtered": 1, "total": 5}
    assert scene.core.run.counters.total["buffer/bypassed"] == 1


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
    heard = scene.wait(0.0)
    assert {name: len(tickets(heard[name.encode()])) for name in plan.members} == {"a": 2, "b": 6}


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


def test_messages_of_a_dead_generation_change_nothing() -> None:
    scene, work = started(batch=1, eta=0)
    scene.result(work[0])
    scene.generation = 7
    assert scene.take(0) is None
    scene.done(1)
    assert scene.counts == {"stored": 1, "total": 1}


def test_a_lost_step_message_is_made_up_for_by_the_next_take() -> None:
    scene, work = started(batch=1, eta=1)
    for ticket in work:
        scene.result(ticket)
    assert scene.take(0) is not None
    batch = scene.take(1)  # StepDone(1) never arrived
    assert batch is not None
    assert batch.version == 1
    assert scene.counts["trained"] == 1


def test_a_batch_that_was_lost_on_the_way_is_served_again() -> None:
    scene, work = started(batch=1, eta=1)
    for ticket in work:
        scene.result(ticket)
    assert scene.take(0) == scene.take(0)
    assert scene.counts == {"batched": 1, "stored": 1, "total": 2}


def test_a_take_from_the_future_is_counted_and_not_answered() -> None:
    scene, work = started(batch=1, eta=1)
    for ticket in work:
        scene.result(ticket)
    assert scene.take(5) is None
    assert scene.core.run.counters.total["buffer/misplaced_messages"] == 1


def test_weights_that_differ_from_what_was_sent_cost_the_actor_its_tickets_and_groups() -> None:
    scene, work = started(batch=2, eta=0)
    scene.result(work[0])
    scene.say(LEARNER, m.Cordon(epoch=1, names=["actor-0"]))
    assert scene.counts == {"failed": 2, "total": 2}
    again = scene.weights(0)
    assert {t.prompt.uid for t in again} == {t.prompt.uid for t in work}


def outrun(straggler: Straggler) -> tuple[Scene, Ticket]:
    """B = 1, eta = 1: the learner is at version 2, and the first ticket, of version 0, is still under way."""
    scene, (slow, quick) = started(batch=1, eta=1, straggler=straggler)
    for version in range(2):
        scene.result(quick)
        assert scene.take(version) is not None
        (quick,) = tickets(scene.say_all(LEARNER, m.StepDone(generation=1, version=version + 1)).get(b"actor-0", []))
        scene.weights(version + 1)
    return scene, slow


def test_evict_drops_a_group_that_became_too_old() -> None:
    scene, slow = outrun(Straggler.evict)
    ack = scene.result(slow, 0, 1, 2)
    assert ack.accepted
    assert "stale: its tokens are of version 0, the next batch is of version 2" in ack.reason
    assert scene.counts["stale"] == 1
    assert scene.core.run.counters.total["buffer/evicted"] == 1


def test_mask_hands_over_a_group_with_some_tokens_within_eta() -> None:
    scene, slow = outrun(Straggler.mask)
    assert scene.result(slow, 0, 1, 2).reason == ""
    batch = scene.take(2)
    assert batch is not None
    assert batch.groups[0].ordinal == slow.ordinal
    assert batch.groups[0].oldest_version == 0
    assert batch.metrics["buffer/staleness_max"] == 1.0, "of the tokens that are trained"


def test_mask_drops_a_group_without_a_token_within_eta() -> None:
    scene, slow = outrun(Straggler.mask)
    assert "stale" in scene.result(slow, 0).reason


def test_wait_does_not_go_on_without_the_straggler() -> None:
    scene, (slow, quick) = started(batch=1, eta=1)
    scene.result(quick)
    assert scene.take(0) is not None
    scene.done(1)
    (another,) = scene.weights(1)  # not before: two tickets of version 0 do not fit into the one batch that may take them
    scene.result(another)
    assert scene.take(1) is None, "the first ticket is due in this batch"
    scene.result(slow)
    batch = scene.take(1)
    assert batch is not None
    assert [g.ordinal for g in batch.groups] == [slow.ordinal]


def test_the_sweep_before_comes_first_and_the_sweep_after_ends_the_run() -> None:
    scene = Scene(config(batch=1, eta=0, steps=1, validation=ValidationConfig(n=2, greedy=True)), heldout=1)
    scene.actor()
    scene.learner()
    before = scene.weights(0)
    assert [(t.kind, t.setting) for t in before] == [(TicketKind.validation, "sampled"), (TicketKind.validation, "greedy")]
    scene.result(before[0])
    heard = scene.say("actor-0", m.GroupResult(group=group(before[1], rollout(0))))
    (ticket,) = tickets(heard)
    assert ticket.kind is TicketKind.train
    scene.result(ticket)
    batch = scene.take(0)
    assert batch is not None
    assert [(score.setting, score.mean) for score in batch.validation] == [("sampled", 0.5), ("greedy", 1.0)]
    scene.done(1)
    assert scene.weights(1) == []
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=1))
    after = tickets(heard[b"actor-0"])
    assert [(t.setting, t.version) for t in after] == [("sampled", 1), ("greedy", 1)]
    scene.result(after[0], 1)
    heard = scene.say_all(b"actor-0", m.GroupResult(group=group(after[1], rollout(1))))
    status = only(heard[LEARNER], m.Finished).status
    assert [(score.version, score.setting) for score in status.validation] == [
        (0, "sampled"),
        (0, "greedy"),
        (1, "sampled"),
        (1, "greedy"),
    ]


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


def test_the_buffer_leaves_when_its_peers_have_left_or_had_time_to() -> None:
    for silent in (True, False):
        scene, work = started(batch=1, eta=0, steps=1)
        scene.result(work[0])
        scene.take(0)
        scene.done(1)
        scene.say(LEARNER, m.Finish(generation=1, version=1))
        assert not scene.core.finished()
        for _ in range(9):
            scene.wait(0.5) if silent else scene.say(LEARNER, m.Heartbeat(), after_s=0.5)
        assert scene.core.finished() is silent
        scene.wait(1.0)
        assert scene.core.finished()


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


def test_the_learner_is_asked_for_weights_when_an_actor_joins() -> None:
    scene, _ = started()
    scene.wait(3.0)
    heard = scene.say_all(b"actor-1", scene.hello(m.Role.actor, "actor-1", capacity=4))
    assert "actor-1" in only(heard[LEARNER], m.SyncRequested).reason


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


def test_a_last_word_that_was_lost_with_its_connection_is_said_again() -> None:
    scene, (ticket,) = started(batch=1, eta=0, steps=1)
    scene.result(ticket)
    scene.take(0)
    scene.done(1)
    assert only(scene.say(LEARNER, m.Finish(generation=1, version=1)), m.Finished).status.balanced
    heard = scene.say(b"socket-2", scene.hello(m.Role.learner, "learner", version=1, generation=1), after_s=1.0)
    assert only(heard, m.Finished).status.balanced
    assert scene.counts == {"trained": 1, "total": 1}, "nothing is issued after the end"
    scene.wait(6.0)
    assert scene.core.finished()
