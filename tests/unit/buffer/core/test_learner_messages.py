"""The learner takes batches and makes steps; messages may be lost, late or of a dead generation."""

from __future__ import annotations

from prolong.common import messages as m

from ..scene import LEARNER, group, only, rollout, started


def test_the_batch_is_answered_as_soon_as_the_missing_group_arrives() -> None:
    scene, work = started(eta=0, batch=2)
    scene.result(work[0])
    assert scene.take(0) is None
    heard = scene.say_all(b"actor-0", m.GroupResult(group=group(work[1], rollout(0), rollout(0, reward=0.0))))
    batch = only(heard[LEARNER], m.BatchReady).batch
    assert [g.ordinal for g in batch.groups] == [0, 1]
    assert batch.metrics["buffer/staleness_max"] == 0.0


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
