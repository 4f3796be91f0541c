"""A curriculum inside the buffer: pass rates are recorded, plans follow, and a restart or another learner finds both."""

from __future__ import annotations

import msgspec
import pytest
from prolong.buffer.audit import audit
from prolong.buffer.journal import journal as journal_module
from prolong.buffer.journal import records as r
from prolong.buffer.tickets import curriculum
from prolong.common.config.sections import ValidationConfig
from prolong.common.config.trees import curriculum_config
from prolong.common.errors import ConfigError
from prolong.common.types import Ticket

from tests.unit.buffer.scene import Scene, config

RULES = {"every": 2, "solved": 0.9}


def started(**settings: object) -> tuple[Scene, list[Ticket]]:
    """A scene with a curriculum, a learner and one actor that holds version 0; and the tickets that it got."""
    scene = Scene(config(**({"batch": 2, "eta": 1, "steps": 40, "curriculum": RULES} | settings)))  # pyright: ignore[reportArgumentType]
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)


def step(scene: Scene, work: list[Ticket], version: int) -> dict[str, float]:
    """The learner makes a version of the first groups that the actor delivers, one prompt in two is solved."""
    while (batch := scene.take(version - 1)) is None:
        scene.result(work.pop(0))
        work[:] = scene.core.dispatch.held_by("actor-0")
    scene.done(version, saves=version % 4 == 0)
    scene.weights(version)
    work[:] = scene.core.dispatch.held_by("actor-0")
    return batch.metrics


def drawn(scene: Scene, count: int) -> list[str]:
    """The uids of the next prompts of tickets; they are drawn."""
    ahead = scene.core.run.store.look_ahead
    return [ahead.take()[0].uid for _ in range(count)]


def test_pass_rates_are_in_the_journal_and_plans_follow_from_them() -> None:
    scene, work = started()
    metrics = [step(scene, work, version) for version in range(1, 7)]
    assert [one["curriculum/plan"] for one in metrics] == [0, 0, 1, 1, 2, 2]
    assert scene.journal.plans() == [1, 2, 3]
    newest = scene.journal.newest_plan()
    assert newest is not None
    assert (newest.version, newest.generation, newest.num_observations) == (6, 1, 12)
    assert len(newest.known) == 12
    assert set(newest.known.values()) <= {(2.0, 1.0), (1.8, 0.9), (1.8 * 0.9, 0.9 * 0.9)}
    found = audit(scene.journal)
    assert (found.findings, found.num_plans) == ([], 3)


def test_a_group_that_carries_no_signal_is_observed_too() -> None:
    scene, work = started()
    scene.result(work.pop(0), spread=False)
    scene.core.commit()
    assert [one.reward for one in scene.journal.observations_from(0)] == [2.0]
    assert scene.counts["filtered"] == 1


def test_a_buffer_that_starts_again_draws_and_plans_as_if_it_had_not() -> None:
    straight, work = started()
    for version in range(1, 6):
        step(straight, work, version)
    broken, work = started()
    for version in range(1, 6):
        step(broken, work, version)
    broken.restart()
    assert broken.core.run.store.look_ahead.cursor == straight.core.run.store.look_ahead.cursor
    for scene in (straight, broken):
        scene.core.run.maybe_plan(6)
    assert broken.journal.newest_plan() == straight.journal.newest_plan()
    assert drawn(broken, 20) == drawn(straight, 20)


def test_a_learner_that_repeats_steps_makes_no_plan_twice() -> None:
    scene, work = started()
    for version in range(1, 6):
        step(scene, work, version)
    scene.wait(11.0)
    scene.learner(version=4, generation=1, pid=2)
    assert scene.core.run.store.version == 4
    assert scene.take(4) is not None
    scene.done(5)
    assert scene.journal.plans() == [1, 2]


def test_a_learner_that_begins_a_generation_draws_by_the_plan_of_its_checkpoint() -> None:
    scene, work = started()
    for version in range(1, 5):
        step(scene, work, version)
    cursor = scene.journal.load_state(4).cursor  # pyright: ignore[reportOptionalMemberAccess]
    assert cursor.position == "plan 2"
    for version in range(5, 9):
        step(scene, work, version)
    assert scene.core.run.store.look_ahead.cursor.position == "plan 4"
    scene.journal.drop(r.key(r.BATCH, 5))  # the redo log is torn: it cannot continue
    scene.wait(11.0)
    scene.actor(pid=2)
    scene.learner(version=4, generation=1, pid=2)
    assert scene.core.run.store.generation == 2
    assert r.plan_number(scene.core.run.store.look_ahead.cursor) == 2


@pytest.mark.parametrize("keep_history", [True, False])
def test_what_no_checkpoint_needs_is_dropped_unless_history_is_kept(keep_history: bool) -> None:
    scene, work = started(checkpoint_every=4)
    scene.journal._keep_history = keep_history
    for version in range(1, 13):
        step(scene, work, version)
        if version % 4 == 0:
            scene.core.run.checkpoint_saved(version, 1)
    scene.core.commit()
    assert scene.journal.plans() == [6]
    assert scene.journal.plan_outlines() == ([1, 2, 3, 4, 5] if keep_history else [])
    assert sum(map(len, scene.journal.observations().values())) == (24 if keep_history else 0)
    assert audit(scene.journal).findings == []


def with_outlines() -> tuple[Scene, dict[int, r.PlanRecord]]:
    """A run of twelve versions whose history is kept, with the checkpoint of the last; and its plans as they were made."""
    scene, work = started(checkpoint_every=4)
    scene.journal._keep_history = True
    plans: dict[int, r.PlanRecord] = {}
    for version in range(1, 13):
        step(scene, work, version)
        newest = scene.journal.newest_plan()
        if newest is not None:
            plans[newest.number] = newest
        if version % 4 == 0:
            scene.core.run.checkpoint_saved(version, 1)
    scene.core.commit()
    return scene, plans


@pytest.mark.parametrize(("every", "whole"), [(32, [6]), (3, [3, 6])])
def test_a_plan_of_which_an_outline_is_left_is_made_again_to_the_last_bit(
    every: int, whole: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "WHOLE_PLANS", every)
    scene, plans = with_outlines()
    assert scene.journal.plans() == whole
    assert list(plans) == [1, 2, 3, 4, 5, 6]
    recall = scene.core.run.curriculum._recall  # pyright: ignore[reportOptionalMemberAccess]
    assert {number: recall(number) for number in plans} == plans
    assert [scene.journal.plan_outline(number) for number in plans] == [plan.outline for plan in plans.values()]
    assert "known" not in msgspec.to_builtins(scene.journal.plan_outline(2))
    scene.restart()
    assert scene.core.run.curriculum.state[0] == plans[6]  # pyright: ignore[reportOptionalMemberAccess]


def test_the_audit_makes_plans_again_through_their_outlines() -> None:
    scene, plans = with_outlines()
    found = audit(scene.journal)
    assert (found.findings, found.num_plans) == ([], 6)
    scene.journal.put(r.key(r.OUTLINE, 3), msgspec.structs.replace(plans[3].outline, best=0.5))
    assert [finding[:27] for finding in audit(scene.journal).findings] == ["plan 3 of the curriculum: i"]
    scene.journal.put(r.key(r.OUTLINE, 3), plans[3].outline)
    scene.journal.put(r.key(r.PLAN, 6), msgspec.structs.replace(plans[6], known={}))
    assert [finding[:27] for finding in audit(scene.journal).findings] == ["plan 6 of the curriculum: i"]


def test_plans_whose_first_observations_are_gone_stay_whole() -> None:
    """History is kept from some step on: they cannot be made again."""
    scene, work = started(checkpoint_every=4)
    for version in range(1, 5):
        step(scene, work, version)
    scene.core.run.checkpoint_saved(4, 1)
    scene.journal._keep_history = True
    for version in range(5, 13):
        step(scene, work, version)
    scene.core.run.checkpoint_saved(12, 1)
    assert scene.journal.plans() == [2, 3, 4, 5, 6]
    assert scene.journal.plan_outlines() == []


def test_the_audit_finds_a_plan_that_was_changed_and_one_that_is_gone() -> None:
    scene, work = started()
    scene.journal._keep_history = True
    for version in range(1, 5):
        step(scene, work, version)
    second = scene.journal.plan(2)
    assert second is not None
    scene.journal.put(r.key(r.PLAN, 2), msgspec.structs.replace(second, best=0.5))
    assert [finding[:27] for finding in audit(scene.journal).findings] == ["plan 2 of the curriculum: i"]
    scene.journal.drop(r.key(r.PLAN, 2))
    assert "plan 2 of the curriculum is gone, and prompts are drawn by it" in audit(scene.journal).findings


def test_an_audit_reads_a_plan_once_those_before_it_were_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan knows every prompt: all plans of a long run at once may be more than the memory."""
    scene, work = started()
    scene.journal._keep_history = True
    for version in range(1, 9):
        step(scene, work, version)
    happened: list[str] = []
    read, make = scene.journal.plan, curriculum.next_plan

    def plan(number: int) -> r.PlanRecord | None:
        happened.append(f"read {number}")
        return read(number)

    def next_plan(last: r.PlanRecord | None, *seen: object, **about: int) -> r.PlanRecord:
        happened.append(f"check {1 if last is None else last.number + 1}")
        return make(last, *seen, **about)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(scene.journal, "plan", plan)
    monkeypatch.setattr(curriculum, "next_plan", next_plan)
    found = audit(scene.journal)
    assert (found.findings, found.num_plans) == ([], 4)
    assert happened == [f"{what} {number}" for number in range(1, 5) for what in ("read", "check")]


def test_a_plateau_needs_validation() -> None:
    with pytest.raises(ConfigError, match=r"buffer\.curriculum\.plateau = 2: expected 0 with validation\.every = 0"):
        curriculum_config(config(curriculum={"plateau": 2}))
    assert curriculum_config(config(curriculum={"plateau": 2}, validation=ValidationConfig(every=5))) is not None
    assert curriculum_config(config()) is None
    with pytest.raises(ConfigError, match=r"buffer.curriculum.solvd = 1: unknown key; did you mean buffer.curriculum.solved"):
        curriculum_config(config(curriculum={"solvd": 1}))
