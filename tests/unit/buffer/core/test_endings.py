"""The end of a run, early or not, and requests for a reset of the reference."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.config.sections import ValidationConfig
from prolong.common.types import TicketKind

from ..scene import LEARNER, Scene, config, group, only, rollout, tickets
from ..scene import started as started_plainly
from .test_stages import forget_learner, started, step


def test_a_run_that_ends_early_puts_all_that_is_under_way_to_rest() -> None:
    scene, work = started(batch=2, eta=2)
    done = work[:3]
    assert len(work) == 6
    for ticket in done:
        scene.result(ticket)
    assert scene.take(0) is not None
    scene.done(1)
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=1))
    ledger = only(heard[LEARNER], m.Finished).status.ledger
    assert ledger["stale"] == ledger["total"] - 2
    assert {state: count for state, count in ledger.items() if count} == scene.counts
    assert ledger["trained"] == 2
    late = scene.result(work[3])
    assert not late.accepted
    assert scene.counts["stale"] == ledger["stale"]


def test_a_batch_that_was_handed_out_and_not_trained_is_stale_and_forgotten() -> None:
    scene, work = started(batch=1, eta=1)
    _, work = step(scene, work, 0)
    assert scene.take(1) is not None
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=1))
    ledger = only(heard[LEARNER], m.Finished).status.ledger
    assert (ledger["trained"], ledger["batched"], ledger["stored"], ledger["leased"]) == (1, 0, 0, 0)
    assert scene.journal.versions() == [0]


def test_the_sweep_after_an_early_end_is_not_held_up_by_abandoned_work() -> None:
    settings = ValidationConfig(n=2, greedy=False)
    scene = Scene(config(batch=2, eta=1, validation=settings), heldout=1)
    scene.actor(capacity=8)
    scene.learner()
    (before,) = scene.weights(0)
    work = tickets(scene.say("actor-0", m.GroupResult(group=group(before, rollout(0), rollout(0)))))
    assert len(work) == 4, "the actor is full"
    step(scene, work[:2], 0)
    heard = scene.say_all(LEARNER, m.Finish(generation=1, version=1))
    (after,) = tickets(heard[b"actor-0"])
    assert after.kind is TicketKind.validation
    heard = scene.say_all(b"actor-0", m.GroupResult(group=group(after, rollout(1), rollout(1))))
    assert only(heard[LEARNER], m.Finished).status.ledger["stale"] == scene.counts["total"] - 2


def test_a_finish_at_a_version_that_was_not_made_is_counted_and_ends_nothing() -> None:
    scene, work = started()
    assert scene.say_all(LEARNER, m.Finish(generation=1, version=4)) == {}
    assert scene.core.run.counters.total["buffer/misplaced_messages"] == 1
    assert scene.result(work[0]).reason == ""


def test_a_run_that_ended_early_can_go_on_with_a_learner_that_comes_back() -> None:
    scene, work = started(batch=1, eta=1)
    _, work = step(scene, work, 0)
    scene.say(LEARNER, m.Finish(generation=1, version=1))
    forget_learner(scene)
    heard = scene.learner(version=1, generation=1, pid=2)
    assert only(heard, m.Welcome).generation == 1
    work = [lease.ticket for lease in scene.core.run.leases.all()]
    assert work
    batch, _ = step(scene, work, 1)
    assert batch.version == 1
    assert scene.counts["trained"] == 2


def request(scene: Scene) -> int:
    return only(scene.say("anybody", m.RequestReset()), m.ResetNoted).version


def test_a_reset_goes_out_once_with_the_next_batch_that_is_formed() -> None:
    scene, work = started(batch=1, eta=1)
    first, work = step(scene, work, 0)
    assert request(scene) == 1
    assert request(scene) == 1
    batches = [first]
    for version in (1, 2):
        batch, work = step(scene, work, version)
        batches.append(batch)
    assert [batch.reset_requested for batch in batches] == [False, True, False]


def test_a_batch_that_asks_for_a_reset_is_served_again_as_it_was() -> None:
    scene, work = started(batch=1, eta=1)
    request(scene)
    step(scene, work, 0)
    forget_learner(scene)
    scene.learner(version=0, generation=1, pid=2)
    again = scene.take(0)
    assert again is not None
    assert again.reset_requested
    assert not scene.core.run.store.reset_requested


def test_a_request_survives_the_buffer_also_one_made_before_the_learner_is_back() -> None:
    for before_restart in (True, False):
        scene, work = started(batch=1, eta=0)
        _, work = step(scene, work, 0)
        if before_restart:
            assert request(scene) == 1
        scene.restart()
        if not before_restart:
            assert request(scene) == 1
            scene.restart()
        scene.actor()
        scene.learner(version=1, generation=1)
        batch, work = step(scene, scene.weights(1), 1)
        assert batch.reset_requested
        batch, _ = step(scene, work, 2)
        assert not batch.reset_requested


def test_a_request_before_any_learner_is_part_of_the_first_batch() -> None:
    scene = Scene(config(batch=1, eta=0))
    assert request(scene) == 0
    scene.actor()
    scene.learner()
    batch, _ = step(scene, scene.weights(0), 0)
    assert batch.reset_requested


def test_a_request_that_no_batch_is_left_for_is_refused() -> None:
    scene, work = started(batch=1, eta=0, steps=1, stages=[])
    for ticket in work:
        scene.result(ticket)
    scene.take(0)
    assert "its last batch is formed" in only(scene.say("anybody", m.RequestReset()), m.Refused).reason
    scene, _ = started(batch=1, eta=0)
    scene.say(LEARNER, m.Finish(generation=1, version=0))
    assert "the run has ended" in only(scene.say("anybody", m.RequestReset()), m.Refused).reason


def test_scores_that_were_recorded_and_not_reported_reach_the_learner_after_a_restart() -> None:
    settings = ValidationConfig(n=2, greedy=False)
    scene = Scene(config(batch=1, eta=0, validation=settings), heldout=1)
    scene.actor()
    scene.learner()
    (before,) = scene.weights(0)
    scene.say("actor-0", m.GroupResult(group=group(before, rollout(0), rollout(0))))
    request(scene)  # records
    scene.restart()
    scene.actor()
    scene.learner(version=0, generation=1)
    work = [ticket for ticket in scene.weights(0) if ticket.kind is TicketKind.train]
    batch, _ = step(scene, work, 0)
    assert [score.mean for score in batch.validation] == [1.0]


def test_a_run_of_three_steps_ends_with_every_ticket_accounted_for() -> None:
    scene, work = started_plainly(steps=3, eta=1, batch=2)
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


def test_the_buffer_leaves_when_its_peers_have_left_or_had_time_to() -> None:
    for silent in (True, False):
        scene, work = started_plainly(batch=1, eta=0, steps=1)
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


def test_a_last_word_that_was_lost_with_its_connection_is_said_again() -> None:
    scene, (ticket,) = started_plainly(batch=1, eta=0, steps=1)
    scene.result(ticket)
    scene.take(0)
    scene.done(1)
    assert only(scene.say(LEARNER, m.Finish(generation=1, version=1)), m.Finished).status.balanced
    heard = scene.say(b"socket-2", scene.hello(m.Role.learner, "learner", version=1, generation=1), after_s=1.0)
    assert only(heard, m.Finished).status.balanced
    assert scene.counts == {"trained": 1, "total": 1}, "nothing is issued after the end"
    scene.wait(6.0)
    assert scene.core.finished()
