"""What a restart of the learner, or of the buffer, does to the run."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.config import Config, ValidationConfig
from prolong.common.types import Batch

from .scene import LEARNER, Scene, config, group, only, rollout, tickets


def trained(cfg: Config, steps: int, *, checkpoint: int | None = None, heldout: int = 0) -> tuple[Scene, list[Batch]]:
    """A run of one actor that trained `steps` steps and asked for the next batch; the batches that were handed out."""
    scene = Scene(cfg, heldout=heldout)
    scene.actor()
    scene.learner()
    scene.weights(0)
    batches: list[Batch] = []
    for version in range(steps + 1):
        finish_all(scene)
        batch = scene.take(version)
        assert batch is not None
        batches.append(batch)
        if version < steps:
            scene.done(version + 1)
            scene.weights(version + 1)
            if checkpoint == version + 1:
                scene.say(LEARNER, m.CheckpointSaved(generation=1, version=checkpoint))
    return scene, batches


def finish_all(scene: Scene) -> None:
    """The actor finishes all that it has, until it has its fill."""
    while leases := scene.core.dispatch.leases.held_by("actor-0"):
        for lease in leases:
            scene.result(lease.ticket)


def silence_learner(scene: Scene) -> None:
    scene.say("actor-0", m.Heartbeat(), after_s=6.0)
    scene.say("actor-0", m.Heartbeat(), after_s=6.0)


def test_a_learner_that_continues_is_served_the_very_same_batches_and_then_goes_live() -> None:
    scene, batches = trained(config(batch=2, eta=1), 3, checkpoint=1)
    silence_learner(scene)
    welcome = only(scene.learner(version=1, generation=1, pid=2), m.Welcome)
    assert welcome.generation == 1
    assert scene.counts["trained"] == 2
    assert scene.counts["batched"] == 6
    for version in (1, 2, 3):
        assert scene.take(version) == batches[version]
        scene.done(version + 1)
    finish_all(scene)
    scene.weights(4)
    finish_all(scene)
    live = scene.take(4)
    assert live is not None
    assert not {g.ordinal for g in live.groups} & {g.ordinal for batch in batches for g in batch.groups}
    assert "stale" not in scene.counts
    assert "failed" not in scene.counts


def test_nothing_is_issued_while_redone_steps_hold_the_places() -> None:
    scene, _ = trained(config(batch=2, eta=1), 3, checkpoint=1)
    silence_learner(scene)
    heard = scene.learner(version=1, generation=1, pid=2)
    assert tickets(heard) == []
    assert scene.publish(1).members == [], "the actor holds version 3 of the same history"


def test_a_checkpoint_forgets_the_batches_that_no_retained_checkpoint_needs() -> None:
    cfg = config(batch=1, eta=1)
    cfg.checkpoint.keep = 2
    scene, _ = trained(cfg, 4)
    for version in (1, 2, 4):
        scene.say(LEARNER, m.CheckpointSaved(generation=1, version=version))
    assert scene.journal.versions() == [2, 3, 4]
    assert scene.journal.load_state(1) is None
    assert scene.journal.load_state(2) is not None


def test_a_learner_whose_batches_are_gone_begins_a_generation_and_nothing_of_the_old_one_is_trained() -> None:
    cfg = config(batch=2, eta=1)
    cfg.checkpoint.keep = 1
    scene, batches = trained(cfg, 3, checkpoint=2)
    old = scene.core.dispatch.leases.held_by("actor-0")
    before = scene.counts
    silence_learner(scene)
    welcome = only(scene.learner(version=1, generation=1, pid=2), m.Welcome)
    assert welcome.generation == 2
    assert scene.counts == {"trained": 2, "stale": before["total"] - 2, "total": before["total"]}
    assert scene.core.store.head == 1
    for lease in old:
        assert not scene.result(lease.ticket).accepted
    work = scene.weights(1)
    assert {ticket.generation for ticket in work} == {2}
    for ticket in work:
        scene.result(ticket)
    batch = scene.take(1)
    assert batch is not None
    assert batch.generation == 2
    assert not {g.ordinal for g in batch.groups} & {g.ordinal for b in batches for g in b.groups}


def test_a_fresh_learner_in_a_used_buffer_begins_a_generation_and_validates_again() -> None:
    scene, _ = trained(config(batch=1, eta=0, validation=ValidationConfig(greedy=False)), 1, heldout=1)
    assert [score.version for score in scene.core.validation.scores] == [0]
    silence_learner(scene)
    assert only(scene.learner(pid=2), m.Welcome).generation == 2
    assert scene.core.validation.scores == []
    assert scene.core.validation.blocks_training
    assert scene.counts == {"stale": 2, "total": 2}


def test_a_learner_that_knows_more_than_the_buffer_is_believed() -> None:
    scene = Scene(config(batch=2))
    scene.actor()
    welcome = only(scene.learner(version=5, generation=3), m.Welcome)
    assert (welcome.generation, welcome.version) == (4, 5)
    assert scene.counts == {"trained": 10, "total": 10}
    assert {ticket.version for ticket in scene.weights(5)} == {5}


def test_a_restarted_buffer_goes_on_where_its_journal_ends() -> None:
    scene, batches = trained(config(batch=2, eta=1), 3, checkpoint=2)
    under_way = {lease.ticket.prompt.uid for lease in scene.core.dispatch.leases.held_by("actor-0")}
    stored = {e.ticket.prompt.uid for e in scene.core.store.ledger.entries() if e.group is not None}
    total = scene.counts["total"]
    scene.restart()
    assert scene.counts == {}
    scene.actor()
    welcome = only(scene.learner(version=3, generation=1), m.Welcome)
    assert (welcome.generation, welcome.version) == (1, 3)
    assert scene.counts == {
        "trained": 6,
        "batched": 2,
        "failed": len(under_way) + len(stored),
        "total": total,
    }, "what it did not record is lost, and counted"
    assert scene.take(3) == batches[3]
    scene.done(4)
    reissued = scene.weights(4)
    assert under_way | stored <= {ticket.prompt.uid for ticket in reissued}, "no prompt is lost with the buffer"
    assert min(ticket.ordinal for ticket in reissued) >= 1_000_000


def test_buffer_and_learner_may_die_together() -> None:
    scene, batches = trained(config(batch=2, eta=1), 3, checkpoint=1)
    scene.restart()
    scene.actor()
    assert only(scene.learner(version=1, generation=1, pid=2), m.Welcome).generation == 1
    scene.weights(1)
    for version in (1, 2, 3):
        assert scene.take(version) == batches[version]
        scene.done(version + 1)
    assert scene.counts["trained"] == 8


def test_a_group_of_the_dead_buffer_is_refused_by_the_next() -> None:
    scene, _ = trained(config(batch=2, eta=1), 1)
    late = scene.core.store.ledger.entries()[0]
    scene.restart()
    scene.actor()
    scene.learner(version=1, generation=1)
    refused = only(
        scene.say("actor-0", m.GroupResult(group=group(late.ticket, rollout(1), rollout(1, reward=0.0)))), m.GroupAck
    )
    assert not refused.accepted


def test_an_epoch_is_never_used_twice_though_the_buffer_dies() -> None:
    scene = Scene(config())
    scene.actor()
    scene.learner()
    epoch = scene.publish(0).epoch
    scene.restart()
    scene.actor()
    scene.learner(version=0, generation=1)
    assert scene.publish(0).epoch > epoch


def test_a_fork_from_a_checkpoint_draws_the_prompts_that_followed_it() -> None:
    scene, _ = trained(config(batch=1, eta=0), 2)
    scene.done(3)
    (first,) = scene.weights(3)
    scene.say(LEARNER, m.CheckpointSaved(generation=1, version=3))
    scene.result(first)
    scene.take(3)
    scene.done(4)
    (second,) = scene.weights(4)
    silence_learner(scene)
    scene.journal.forget_from(3)  # the batch is gone, the checkpoint's state is not
    assert only(scene.learner(version=3, generation=1, pid=2), m.Welcome).generation == 2
    (again,) = scene.weights(3)
    assert again.prompt == first.prompt
    scene.result(again)
    scene.take(3)
    scene.done(4)
    (follows,) = scene.weights(4)
    assert follows.prompt == second.prompt
