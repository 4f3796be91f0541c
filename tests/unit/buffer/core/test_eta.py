"""An eta that adapts inside the buffer: decided once a step, recorded, and the same after any restart."""

from __future__ import annotations

import msgspec
import pytest
from prolong.buffer.audit import audit
from prolong.buffer.journal import records as r
from prolong.common.errors import ConfigError
from prolong.common.types import Batch, StepEvidence, Ticket

from tests.unit.buffer.scene import Scene, config

RULES = {"min": 0, "max": 3, "ess": 0.9, "waiting": 0.1, "window": 1}
NEAR = StepEvidence(ess=0.999, kl=0.0001, wait_s=1.0, step_s=1.0)
FAR = msgspec.structs.replace(NEAR, ess=0.5)


def started(**settings: object) -> tuple[Scene, list[Ticket]]:
    """A scene whose eta adapts, with a learner and one actor that holds version 0; and the tickets that it got."""
    scene = Scene(config(**({"batch": 1, "eta": 1, "steps": 40, "adaptive": RULES} | settings)))  # pyright: ignore[reportArgumentType]
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)


def step(scene: Scene, work: list[Ticket], version: int, said: StepEvidence | None = NEAR, *, held_s: float = 0.0) -> Batch:
    """The learner makes a version: it waits for its batch for `held_s`, and says `said`. `work` becomes what the actor has."""
    assert scene.take(version - 1) is None
    scene.wait(held_s)
    assert scene.result(work.pop(0)).accepted
    batch = scene.take(version - 1)
    assert batch is not None
    scene.done(version, evidence=said, saves=version % 5 == 0)
    scene.weights(version)
    work[:] = scene.core.dispatch.held_by("actor-0")
    return batch


def learner_returns(scene: Scene, **about: int) -> None:
    """Another learner process, once the silence of the first one is noticed; and that of the actor, which returns too."""
    scene.wait(11.0)
    scene.actor()
    scene.learner(pid=2, **about)


def etas(scene: Scene) -> list[int]:
    return [record.eta for record in scene.core.run.journal.eta_records()]


def test_waiting_raises_eta_which_admits_more_at_once_under_tickets_that_keep_theirs() -> None:
    scene, work = started()
    assert [ticket.eta for ticket in work] == [1, 1]
    for version in (1, 2, 3):
        step(scene, work, version, held_s=0.5)
        assert len(work) == 2, "what the first eta did has yet to show, for two steps"
    batch = step(scene, work, 4, held_s=0.5)
    assert batch.metrics["buffer/eta"] == 1
    assert scene.core.status(0.0).eta == 2
    assert scene.core.status(0.0).eta_why == "work is held back for 50.0% of the time, above 10.0%"
    assert [ticket.eta for ticket in work] == [1, 2, 2], "two of them at once, for the room of a larger eta"
    assert step(scene, work, 5).metrics["buffer/eta"] == 2
    assert etas(scene) == [1, 1, 1, 2, 2]


def test_a_smaller_eta_issues_nothing_until_enough_is_trained() -> None:
    scene, work = started(eta=3)
    for version in range(1, 5):
        step(scene, work, version)
    assert len(work) == 4
    step(scene, work, 5, FAR)
    assert scene.core.status(0.0).eta == 1
    for version, left in ((6, 2), (7, 2), (8, 2)):
        batch = step(scene, work, version, FAR)
        assert len(work) == left
        assert batch.metrics["buffer/staleness_max"] <= batch.groups[0].allowed_staleness(0)
    assert [ticket.eta for ticket in work] == [1, 1]


def test_held_time_counts_while_the_learner_waits_and_a_larger_eta_would_give_the_actor_work() -> None:
    scene, work = started()
    assert step(scene, work, 1, held_s=0.5).metrics["buffer/held_s"] == 0.5
    assert step(scene, work, 2, held_s=0.25).metrics["buffer/held_s"] == 0.25
    scene.wait(7.0)  # nobody waits for a batch
    assert step(scene, work, 3).metrics["buffer/held_s"] == 0.0


def test_no_time_is_held_while_the_actor_has_all_that_it_can_do() -> None:
    scene = Scene(config(batch=1, eta=1, steps=40, adaptive=RULES))
    scene.actor(capacity=4)
    scene.learner()
    work = scene.weights(0)
    assert len(work) == 2
    assert step(scene, work, 1, held_s=0.5).metrics["buffer/held_s"] == 0.0


def test_the_wait_for_a_group_that_is_due_is_held_time_too() -> None:
    scene, (due, other) = started(batch=1)
    assert scene.take(0) is None
    assert scene.result(other).accepted
    scene.done(1, evidence=NEAR)
    scene.weights(1)
    assert scene.take(1) is None
    late = scene.core.run.store.contract.is_due(due.ordinal)
    scene.wait(2.0)
    assert scene.result(due).accepted
    batch = scene.take(1)
    assert late
    assert batch is not None
    assert batch.metrics["buffer/held_s"] == 2.0


def test_a_learner_that_repeats_steps_decides_nothing_again() -> None:
    scene, work = started()
    for version in range(1, 9):
        step(scene, work, version, held_s=0.5)
    decided = scene.core.run.journal.eta_records()
    learner_returns(scene, version=5, generation=1)
    assert scene.core.run.store.version == 5
    for version in (6, 7, 8):
        assert scene.take(version - 1) is not None
        scene.done(version, evidence=FAR)
    assert scene.core.run.journal.eta_records() == decided
    scene.weights(8)
    scene.done(9, evidence=FAR)  # no such step
    assert scene.core.run.journal.eta_records() == decided
    assert audit(scene.journal).findings == []


def test_a_buffer_that_restarts_goes_on_with_its_eta_and_evidence() -> None:
    scene, work = started(adaptive=RULES | {"window": 3})
    for version in range(1, 5):
        step(scene, work, version, held_s=0.5)
    before = scene.core.run.eta
    scene.restart()
    after = scene.core.run.eta
    assert before is not None
    assert after is not None
    assert after.state == before.state
    assert len(after.state.window) == 2
    assert scene.core.run.store.contract.eta == before.state.eta


def test_tickets_under_way_keep_their_eta_over_a_restart() -> None:
    scene, work = started()
    for version in range(1, 5):
        step(scene, work, version, held_s=0.5)
    deadlines = scene.core.run.store.contract.deadlines
    assert {deadline - ticket.version for ticket, deadline in zip(work, deadlines.values(), strict=True)} == {1, 2}
    scene.restart()
    assert scene.core.run.store.contract.deadlines == deadlines


def test_a_learner_that_comes_with_an_older_checkpoint_begins_with_the_eta_of_then() -> None:
    scene, work = started(checkpoint_every=5)
    for version in range(1, 13):
        step(scene, work, version, NEAR if version < 8 else FAR, held_s=0.5)
    assert len(set(etas(scene)[5:])) > 1
    then = scene.core.run.journal.load_state(5)
    assert then is not None
    assert then.eta is not None
    scene.core.run.journal.drop(r.key(r.BATCH, 7))  # so that the recorded history cannot go on
    learner_returns(scene, version=5, generation=1)
    assert scene.generation == 2
    assert scene.core.run.eta is not None
    assert scene.core.run.eta.state == then.eta
    assert scene.core.run.store.contract.eta == then.eta.eta
    assert len(etas(scene)) == 5
    work[:] = scene.weights(5)
    step(scene, work, 6, held_s=0.5)
    assert not [finding for finding in audit(scene.journal).findings if "eta" in finding]


def test_a_learner_without_a_checkpoint_begins_with_the_configured_eta() -> None:
    scene, work = started()
    for version in range(1, 6):
        step(scene, work, version, held_s=0.5)
    learner_returns(scene)
    assert scene.core.run.store.contract.eta == 1
    assert etas(scene) == []
    work[:] = scene.weights(0)
    step(scene, work, 1, held_s=0.5)
    assert audit(scene.journal).findings == []


def test_a_step_whose_evidence_was_lost_decides_nothing() -> None:
    scene, work = started()
    for version in range(1, 5):
        step(scene, work, version, None if version == 3 else NEAR, held_s=0.5)
    assert [record.evidence.version for record in scene.core.run.journal.eta_records()] == [1, 2, 4]
    assert audit(scene.journal).findings == []


def test_an_eta_that_stays_records_nothing() -> None:
    scene, work = started(adaptive=None)
    for version in range(1, 5):
        step(scene, work, version, FAR, held_s=0.5)
    assert (etas(scene), scene.core.status(0.0).eta, scene.core.run.state().eta) == ([], 1, None)


def test_the_audit_makes_every_decision_again() -> None:
    scene, work = started()
    for version in range(1, 6):
        step(scene, work, version, held_s=0.5)
    found = audit(scene.journal)
    assert (found.findings, found.num_decisions) == ([], 5)
    (_, _, _, fourth, *_) = scene.journal.eta_records()
    scene.journal.log_eta(msgspec.structs.replace(fourth, eta=3))
    (wrong,) = audit(scene.journal).findings
    assert wrong.startswith("the decision about eta after version 4: recorded eta 3 (work is held back")


def test_the_start_lies_between_the_bounds() -> None:
    with pytest.raises(ConfigError, match=r"buffer.eta = 5: expected from 0 to 3, between which buffer.adaptive moves it"):
        Scene(config(eta=5, adaptive=RULES))
