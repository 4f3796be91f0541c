"""The groups that actors hand in: taken, refused, failed, filtered, or dropped because they are too old."""

from __future__ import annotations

import pytest
from prolong.common import messages as m
from prolong.common.config.sections import Straggler
from prolong.common.types import Ticket

from ..scene import LEARNER, Scene, group, only, rollout, started, tickets


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
