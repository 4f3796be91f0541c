"""Restarts of the learner and of the buffer, and their effect on the run."""

from __future__ import annotations

import dataclasses

from prolong.common import messages as m
from prolong.common.config.sections import Config, ValidationConfig
from prolong.common.types import Batch, TicketKind

from ..scene import LEARNER, Scene, config, group, only, rollout, tickets


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
                scene.say(LEARNER, m.CheckpointSaved(generation=1, version=version + 1))
    return scene, batches


def finish_all(scene: Scene) -> None:
    """The actor finishes its tickets until it is given no more."""
    while leases := scene.core.run.leases.held_by("actor-0"):
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
    old = scene.core.run.leases.held_by("actor-0")
    before = scene.counts
    silence_learner(scene)
    welcome = only(scene.learner(version=1, generation=1, pid=2), m.Welcome)
    assert welcome.generation == 2
    assert scene.counts == {"trained": 2, "stale": before["total"] - 2, "total": before["total"]}
    assert scene.core.run.store.head == 1
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
    assert [score.version for score in scene.core.run.validation.scores] == [0]
    silence_learner(scene)
    assert only(scene.learner(pid=2), m.Welcome).generation == 2
    assert scene.core.run.validation.scores == []
    assert scene.core.run.validation.blocks_training
    assert scene.counts == {"stale": 2, "total": 2}


def test_a_learner_that_knows_more_than_the_buffer_is_believed() -> None:
    scene = Scene(config(batch=2))
    scene.actor()
    welcome = only(scene.learner(version=5, generation=3), m.Welcome)
    assert (welcome.generation, welcome.version) == (4, 5)
    assert scene.counts == {"trained": 10, "total": 10}
    assert {ticket.version for ticket in scene.weights(5)} == {5}


def memory_of(scene: Scene) -> dict[str, object]:
    """Everything that a restart must not change."""
    run, store = scene.core.run, scene.core.run.store
    return {
        "counts": store.ledger.as_dict(),
        "entries": [dataclasses.replace(entry) for entry in store.ledger.entries()],
        "leases": [(lease.ticket, lease.actor) for lease in run.leases.all()],
        "retries": list(store.retries),
        "sweeps": run.validation.records(),
        "scores": run.validation.scores,
        "at": (
            store.generation,
            store.version,
            store.head,
            store.stage,
            run.next_ordinal,
        ),
        "cursor": store.look_ahead.cursor,
        "deadlines": store.contract.deadlines,
        "filtered": store.filter.dropped,
        "counters": dict(run.counters.total),
    }


def busy(cfg: Config, *, heldout: int = 0) -> Scene:
    """A run with groups stored, tickets leased, one to be issued again, one filtered, and a sweep under way."""
    scene, _ = trained(cfg, 3, checkpoint=2, heldout=heldout)
    scene.done(4)
    scene.weights(4)
    work = [lease.ticket for lease in scene.core.run.leases.held_by("actor-0")]
    first, second, third, *_ = [ticket for ticket in work if ticket.kind is TicketKind.train]
    scene.result(first)
    scene.result(second, spread=False)
    scene.say("actor-0", m.TicketReturned(ordinal=third.ordinal, reason="no room"))
    if heldout:
        asked = next(ticket for ticket in work if ticket.kind is TicketKind.validation)
        scene.result(asked)
    return scene


def test_a_restarted_buffer_is_what_the_dead_one_was() -> None:
    validation = ValidationConfig(every=2, n=2)
    scene = busy(config(batch=5, eta=1, validation=validation), heldout=3)
    before = memory_of(scene)
    assert {"stored", "leased", "failed", "filtered", "trained"} <= set(scene.counts), "all that can be lost is there"
    assert before["sweeps"]
    scene.restart()
    assert memory_of(scene) == before
    scene.restart()
    assert memory_of(scene) == before


def test_actor_and_learner_that_outlive_the_buffer_go_on_with_what_they_have() -> None:
    scene = busy(config(batch=5, eta=1))
    held = scene.core.run.leases.held_by("actor-0")
    scene.restart()
    (resent,) = (x for x in scene.actor(version=4) if isinstance(x, m.Tickets))
    assert resent.tickets == [lease.ticket for lease in held]
    assert only(scene.learner(version=4, generation=1), m.Welcome).generation == 1
    for lease in held:
        assert scene.result(lease.ticket).accepted
    assert "stale" not in scene.counts
    assert scene.counts["failed"] == 1, "the one that was handed back"


def test_a_group_reaches_a_restarted_buffer_though_no_learner_came_yet() -> None:
    scene = busy(config(batch=5, eta=1))
    lease = scene.core.run.leases.held_by("actor-0")[0]
    scene.restart()
    scene.actor(version=4)
    assert scene.result(lease.ticket).accepted
    assert not scene.result(lease.ticket).accepted, "sent again because its acknowledgement was lost"


def test_what_a_fresh_process_of_the_same_name_does_not_have_is_issued_again_at_once() -> None:
    scene = busy(config(batch=5, eta=1))
    lost = {lease.ticket.prompt.uid for lease in scene.core.run.leases.held_by("actor-0")}
    scene.restart()
    assert tickets(scene.actor(pid=2)) == []
    assert not scene.core.run.leases.held_by("actor-0")
    assert lost <= {prompt.uid for prompt, _ in scene.core.run.store.retries}


def test_leases_of_an_actor_that_died_with_the_buffer_are_lost_after_a_silence() -> None:
    scene = busy(config(batch=5, eta=1))
    scene.restart()
    scene.wait(9.0)
    assert scene.counts["leased"] > 0
    scene.wait(2.0)
    assert "leased" not in scene.counts


def test_what_was_not_committed_never_happened() -> None:
    scene = busy(config(batch=5, eta=1))
    before = memory_of(scene)
    lease = scene.core.run.leases.held_by("actor-0")[0]
    message = m.GroupResult(group=group(lease.ticket, rollout(4), rollout(4, reward=0.0)))
    assert scene.core.handle(b"actor-0", message, scene.now)
    assert memory_of(scene) != before
    scene.restart()
    assert memory_of(scene) == before


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


def test_the_state_of_a_checkpoint_that_a_clock_asked_for_is_recorded_when_the_step_is_done() -> None:
    """The checkpoint is durable a few steps later, when the state is another one."""
    scene = trained(config(batch=2, eta=1), 1)[0]
    scene.say(LEARNER, m.StepDone(generation=1, version=2, saves=True))
    journal = scene.core.run.journal
    assert journal.states() == [2]
    state = journal.load_state(2)
    assert state is not None
    assert (state.version, state.head) == (2, 2)
