"""Tickets that actors hand over when they leave, with the tokens so far: who goes on with them, and what is lost."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from prolong.buffer.audit import audit
from prolong.common import messages as m
from prolong.common.config.sections import ValidationConfig
from prolong.common.transport.wire import encode
from prolong.common.types import (
    FinishReason,
    Rollout,
    StartedRollout,
    Ticket,
    TicketKind,
    Verdict,
    VerdictStatus,
    VersionSpan,
)

from ..scene import LEARNER, Scene, config, group, only, rollout, started, tickets

TOKENS = 3


def begun(
    index: int = 0, *versions: int, actor: str = "actor-0", tokens: int = TOKENS, finished: bool = False
) -> StartedRollout:
    """What `actor` has of a rollout: a token of each version, more of the last."""
    lived = versions or (0,)
    ends = [*range(1, len(lived)), tokens]
    return StartedRollout(
        index=index,
        token_ids=np.arange(tokens, dtype="<i4").tobytes(),
        behaviour_logprobs=np.full(tokens, -1.0, "<f4").tobytes(),
        spans=[
            VersionSpan(version=v, start=i, end=end, actor=actor) for i, (v, end) in enumerate(zip(lived, ends, strict=True))
        ],
        finish_reason=FinishReason.stop if finished else None,
        verdict=Verdict(reward=1.0, status=VerdictStatus.ok, verifier="math", seconds=0.0) if finished else None,
    )


def hand_over(scene: Scene, ticket: Ticket, *rollouts: StartedRollout, name: str = "actor-0") -> m.GroupAck:
    """The actor says that it leaves, if it has not, and hands a ticket over."""
    scene.say(name, m.Leave(reason="SIGTERM"))
    message = m.TicketHandedOver(ordinal=ticket.ordinal, generation=ticket.generation, started=list(rollouts))
    return only(scene.say(name, message), m.GroupAck)


def goes_on(scene: Scene, name: str = "actor-1", version: int = 0) -> list[Ticket]:
    """Another actor joins and gets weights; the tickets that it gets."""
    scene.actor(name)
    return [ticket for ticket in scene.weights(version) if scene.core.run.leases.find(ticket.ordinal) is not None]


def finished(ticket: Ticket, name: str = "actor-1", version: int = 0) -> m.GroupResult:
    """A group whose rollouts go on from what was handed over."""
    made: list[Rollout] = []
    given = {each.index: each for each in ticket.started}
    for index in range(ticket.sampling.n):
        own = rollout(version, reward=float(index == 0))
        if index in given:
            spans = [*given[index].spans, VersionSpan(version=version, start=TOKENS, end=TOKENS + 1)]
            four = {"token_ids": bytes(given[index].token_ids) + bytes(4), "behaviour_logprobs": bytes(16)}
            own = msgspec.structs.replace(own, spans=spans, **four)
        made.append(own)
    return m.GroupResult(group=group(ticket, *made, actor=name))


def count(scene: Scene, name: str) -> int:
    return scene.core.run.counters.total[f"buffer/{name}"]


def test_a_ticket_that_is_handed_over_keeps_its_ordinal_and_tokens_and_is_trained_once() -> None:
    scene, work = started(eta=0, batch=1)
    assert hand_over(scene, work[0], begun()).accepted
    assert scene.counts == {"issued": 1, "total": 1}
    (again,) = goes_on(scene)
    assert again == msgspec.structs.replace(work[0], started=[begun()])
    assert scene.counts == {"leased": 1, "total": 1}
    late = scene.result(work[0])
    assert not late.accepted
    assert "was given to actor-1" in late.reason
    assert count(scene, "duplicates") == 1
    assert only(scene.say("actor-1", finished(again)), m.GroupAck).reason == ""
    batch = scene.take(0)
    assert batch is not None
    assert [span.actor for span in batch.groups[0].rollouts[0].spans] == ["actor-0", ""]
    assert (count(scene, "handed_over"), count(scene, "handed_over_tokens")) == (1, TOKENS)
    assert (count(scene, "continued"), count(scene, "saved_tokens"), count(scene, "lost_tokens")) == (1, TOKENS, 0)


def test_a_group_and_a_second_handover_that_come_after_a_handover_are_duplicates() -> None:
    scene, work = started()
    assert hand_over(scene, work[0], begun()).accepted
    assert not scene.result(work[0]).accepted
    assert not hand_over(scene, work[0], begun()).accepted
    scene.say("actor-0", m.TicketReturned(ordinal=work[0].ordinal, reason="late"))
    assert count(scene, "duplicates") == 2
    assert scene.counts == {"issued": 1, "leased": 3, "total": 4}


def test_a_ticket_that_was_not_begun_is_handed_over_too_and_no_attempt_is_lost() -> None:
    scene, work = started(eta=0, batch=1)
    assert hand_over(scene, work[0]).accepted
    assert goes_on(scene) == [work[0]]


def test_only_an_actor_whose_weights_are_not_older_than_a_token_goes_on() -> None:
    scene, work = started(batch=2, eta=1)
    scene.actor("behind")
    scene.apply("behind", 0, epoch=scene.publish(0).epoch)
    scene.result(work[0])
    scene.result(work[1])
    scene.take(0)
    scene.done(1)
    plan = scene.publish(1)
    assert plan.members == ["actor-0", "behind"]
    scene.apply("actor-0", 1)
    assert hand_over(scene, work[2], begun(0, 0, 1), begun(1, 0)).accepted
    assert not tickets(scene.say("behind", m.Heartbeat()), TicketKind.train) or all(
        ticket.ordinal != work[2].ordinal for ticket in scene.core.dispatch.held_by("behind")
    )
    (again,) = (ticket for ticket in tickets(scene.apply("behind", 1)) if ticket.started)
    assert (again.ordinal, again.version) == (work[2].ordinal, 0), "its deadline is what it was"


def test_it_goes_before_fresh_tickets_and_counts_against_capacity() -> None:
    scene, work = started(batch=4, eta=0)
    for ticket in work[:2]:
        assert hand_over(scene, ticket, begun()).accepted
    scene.actor("small", capacity=2)
    assert [ticket.ordinal for ticket in scene.weights(0)] == [work[0].ordinal]
    assert scene.core.run.handovers.find(work[1].ordinal) is not None


def test_each_ticket_with_tokens_is_a_message_of_its_own() -> None:
    scene, work = started(batch=2, eta=0)
    for ticket in work:
        hand_over(scene, ticket, begun())
    scene.actor("actor-1")
    scene.publish(0)
    sizes = [len(message.tickets) for message in scene.apply("actor-1", 0) if isinstance(message, m.Tickets)]
    assert sizes == [1, 1]
    again = scene.say("actor-1", scene.hello(m.Role.actor, "actor-1", capacity=100, version=0))
    assert [len(message.tickets) for message in again if isinstance(message, m.Tickets)] == [1, 1]


def test_nobody_goes_on_and_the_ticket_fails_when_its_lease_would_have() -> None:
    scene, work = started(eta=1, batch=2, lease_s=60.0)
    hand_over(scene, work[0], begun())
    for waited in range(1, 7):
        assert count(scene, "lost_handovers") == (1 if waited == 6 and scene.now >= 60 else 0)
        scene.say(LEARNER, m.Heartbeat(), after_s=10.0 if waited == 1 else 9.0)
    scene.wait(9.0)
    assert (count(scene, "lost_handovers"), count(scene, "lost_tokens")) == (1, TOKENS)


def test_a_batch_that_needs_it_waits_for_newer_weights_no_longer_than_for_a_silent_actor() -> None:
    """The other actor has room, but weights that are too old: it makes the group anew."""
    scene, work = started(batch=2, eta=1)
    scene.actor("behind", capacity=2)
    scene.apply("behind", 0, epoch=scene.publish(0).epoch)
    scene.result(work[0])
    scene.result(work[1])
    scene.take(0)
    scene.done(1)
    scene.publish(1)
    scene.apply("actor-0", 1)
    assert hand_over(scene, work[2], begun(0, 0, 1)).accepted
    for ticket in scene.core.dispatch.held_by("behind"):
        scene.result(ticket, name="behind")
    assert scene.core.run.store.is_due(work[2].ordinal)

    def later(seconds: float) -> list[Ticket]:
        scene.say(LEARNER, m.Heartbeat(), after_s=seconds)
        return tickets(scene.say("behind", m.Heartbeat()))

    later(9.0)
    assert scene.core.run.handovers.find(work[2].ordinal) is not None
    (fresh,) = later(1.0) or scene.core.dispatch.held_by("behind")
    assert (fresh.prompt, fresh.started) == (work[2].prompt, [])
    assert (count(scene, "lost_handovers"), count(scene, "lost_tokens")) == (1, TOKENS)


def test_without_an_actor_that_could_make_it_anew_a_ticket_waits() -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun())
    scene.wait(30.0)
    assert scene.counts == {"issued": 1, "total": 1}
    scene.learner(generation=1)
    assert goes_on(scene) == [msgspec.structs.replace(work[0], started=[begun()])]


def test_an_actor_that_is_killed_while_it_goes_on_loses_the_ticket_as_any_other() -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun())
    goes_on(scene)
    scene.actor("actor-1", pid=2)
    assert scene.counts == {"failed": 1, "total": 1}
    assert count(scene, "lost_tokens") == TOKENS


def test_a_ticket_may_be_handed_over_again_and_its_tokens_count_once() -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun(1))
    (again,) = goes_on(scene)
    spans = [*begun(1).spans, VersionSpan(version=0, start=TOKENS, end=5, actor="actor-1")]
    more = msgspec.structs.replace(begun(1, tokens=5), spans=spans)
    assert hand_over(scene, again, more, name="actor-1").accepted
    (third,) = goes_on(scene, "actor-2")
    assert [span.actor for span in third.started[0].spans] == ["actor-0", "actor-1"]
    assert (count(scene, "handed_over"), count(scene, "handed_over_tokens")) == (2, 5)
    assert third.unfinished() == {0: b"", 1: more.token_ids}


def test_a_restarted_buffer_still_holds_what_was_handed_over() -> None:
    scene, work = started(eta=0, batch=2)
    hand_over(scene, work[0], begun(0, finished=True), begun(1))
    assert audit(scene.journal).findings == []
    scene.restart()
    assert scene.counts == {"issued": 1, "leased": 1, "total": 2}
    assert audit(scene.journal).findings == []
    scene.learner(generation=1, pid=2)
    again = next(ticket for ticket in goes_on(scene) if ticket.ordinal == work[0].ordinal)
    assert again.started == [begun(0, finished=True), begun(1)]
    scene.restart()
    held = tickets(scene.actor("actor-1", version=0))
    assert [ticket for ticket in held if ticket.ordinal == work[0].ordinal] == [again], "it may have missed the first message"


def test_a_new_generation_drops_what_was_handed_over() -> None:
    scene, work = started()
    hand_over(scene, work[0], begun())
    scene.learner(generation=-1)
    assert scene.counts == {"stale": 4, "total": 4}
    assert scene.core.run.handovers.all() == []
    assert count(scene, "lost_tokens") == TOKENS
    assert scene.generation == 2
    late = m.TicketHandedOver(ordinal=work[1].ordinal, generation=1, started=[begun()])
    assert "generation 1 is over" in only(scene.say("actor-0", late), m.GroupAck).reason


def test_a_validation_ticket_is_handed_over_too() -> None:
    scene = Scene(config(validation=ValidationConfig(greedy=False, n=2)), heldout=1)
    scene.actor()
    scene.learner()
    (work,) = scene.weights(0)
    assert hand_over(scene, work, begun()).accepted
    assert audit(scene.journal).findings == []
    scene.restart()
    scene.learner(generation=1, pid=2)
    (again,) = (ticket for ticket in goes_on(scene) if ticket.kind is TicketKind.validation)
    assert (again.ordinal, again.started) == (work.ordinal, [begun()])
    assert only(scene.say("actor-1", finished(again)), m.GroupAck).accepted
    assert scene.core.run.validation.scores[0].num_rollouts == 2


@pytest.mark.parametrize("state", ["waiting", "leased", "stored"])
def test_an_actor_with_wrong_weights_spoils_what_others_went_on_with(state: str) -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun())
    if state != "waiting":
        (again,) = goes_on(scene)
        if state == "stored":
            assert only(scene.say("actor-1", finished(again)), m.GroupAck).reason == ""
    scene.core.dispatch.distrust("actor-0", 0)
    assert scene.core.run.store.ledger.as_dict()["failed"] == 1
    scene.core.run.store.check()
    scene.core.dispatch.distrust("actor-0", 0)
    assert scene.core.run.store.ledger.as_dict()["failed"] == 1


def test_wrong_weights_of_a_later_version_spoil_nothing() -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun())
    scene.core.dispatch.distrust("actor-0", 1)
    assert scene.counts == {"issued": 1, "total": 1}


def hostile() -> dict[str, list[StartedRollout]]:
    replace = msgspec.structs.replace
    sound = begun()
    return {
        "nonfinite": [replace(sound, behaviour_logprobs=np.full(TOKENS, np.nan, "<f4").tobytes())],
        "positive": [replace(sound, behaviour_logprobs=np.full(TOKENS, 0.5, "<f4").tobytes())],
        "vocabulary": [replace(sound, token_ids=np.full(TOKENS, 100, "<i4").tobytes())],
        "versions": [begun(0, 7)],
        "actors": [begun(actor="somebody")],
        "malformed: a gap": [replace(sound, spans=[VersionSpan(version=0, start=1, end=TOKENS, actor="actor-0")])],
        "malformed: too long": [begun(tokens=64)],
        "malformed: empty": [begun(tokens=0)],
        "malformed: index": [begun(2)],
        "malformed: twice": [begun(), begun()],
        "malformed: negative": [replace(sound, token_ids=np.full(TOKENS, -1, "<i4").tobytes())],
        "malformed: abort": [replace(sound, finish_reason=FinishReason.abort)],
        "malformed: judged before its end": [replace(begun(finished=True), finish_reason=None)],
    }


@pytest.mark.parametrize("how", hostile())
def test_what_nobody_can_go_on_with_fails_the_ticket_and_is_counted(how: str) -> None:
    scene = Scene(config(eta=0, batch=1), model_ids=100)
    scene.actor()
    scene.learner()
    (work,) = scene.weights(0)
    ack = hand_over(scene, work, *hostile()[how])
    assert not ack.accepted
    assert count(scene, "failed_handovers") == 1
    assert count(scene, f"flawed_{how.partition(':')[0]}") == 1
    assert scene.counts == {"failed": 1, "total": 1}
    (fresh,) = goes_on(scene)
    assert (fresh.prompt, fresh.started) == (work.prompt, [])


def test_a_ticket_that_would_not_fit_into_a_message_any_more_fails() -> None:
    """The message that brought it had room: the prompt comes on top."""
    scene = Scene(config(eta=0, batch=1))
    scene.cfg.buffer.max_message_mb = 1
    scene.cfg.sampling.max_tokens = 70_000
    scene.restart()
    scene.actor()
    scene.learner()
    (work,) = scene.weights(0)
    tokens = (1 << 20) // 16 - 22
    message = m.TicketHandedOver(ordinal=work.ordinal, generation=1, started=[begun(0, tokens=tokens), begun(1, tokens=tokens)])
    assert len(encode(message)) < 1 << 20
    assert "a message has at most 1048576" in hand_over(scene, work, *message.started).reason
    assert count(scene, "flawed_oversized") == 1
    assert scene.counts == {"failed": 1, "total": 1}


def test_a_second_handover_must_begin_with_the_tokens_of_the_first() -> None:
    scene, work = started(eta=0, batch=1)
    hand_over(scene, work[0], begun(1))
    (again,) = goes_on(scene)
    other = msgspec.structs.replace(begun(1), token_ids=bytes(4 * TOKENS))
    assert "does not begin with the tokens" in hand_over(scene, again, other, name="actor-1").reason


def test_a_group_may_not_name_an_actor_that_did_not_work_on_its_ticket() -> None:
    scene, work = started()
    forged: Any = rollout(0)
    forged = msgspec.structs.replace(forged, spans=[VersionSpan(version=0, start=0, end=4, actor="somebody")])
    ack = only(scene.say("actor-0", m.GroupResult(group=group(work[0], forged, rollout(0, reward=0.0)))), m.GroupAck)
    assert not ack.accepted
    assert "somebody" in ack.reason
