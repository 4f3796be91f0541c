"""Changes of stage, and their effect on tickets, batches and the journal."""

from __future__ import annotations

from prolong.common import messages as m
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.sections import ValidationConfig
from prolong.common.types import Batch, Ticket, TicketKind

from ..scene import LEARNER, Scene, config, group, only, rollout, tickets

WIDE = StageConfig(
    name="wide", sampling={"n": 3, "temperature": 0.7, "max_tokens": 48}, data={"weights": {"sums": 0.0, "sorts": 1.0}}
)
STAGES = [StageConfig(name="first", steps=5), WIDE]


def started(**settings: object) -> tuple[Scene, list[Ticket]]:
    """A run of two stages (the second draws other prompts, 3 rollouts each) with one actor; and its tickets."""
    scene = Scene(config(**({"batch": 2, "eta": 1, "stages": STAGES} | settings)))  # pyright: ignore[reportArgumentType]
    scene.actor()
    scene.learner()
    return scene, scene.weights(0)


def stage_of(ticket: Ticket) -> int:
    """The stage that the ticket was issued in; its prompt must agree."""
    stage = {2: 0, 3: 1}[ticket.sampling.n]
    assert (ticket.sampling.temperature, ticket.sampling.max_tokens) == ((1.0, 64), (0.7, 48))[stage]
    assert ticket.prompt.task == ("sum", "sort")[stage]
    return stage


def step(scene: Scene, work: list[Ticket], version: int, stage: int = 0) -> tuple[Batch, list[Ticket]]:
    """The actor finishes all it has, the learner trains and is in `stage` then; the batch, and the actor's next tickets."""
    for ticket in work:
        assert scene.result(ticket).reason == ""
    batch = scene.take(version)
    assert batch is not None
    heard = scene.say_all(LEARNER, m.StepDone(generation=scene.generation, version=version + 1, stage=stage))
    return batch, tickets(heard.get(b"actor-0", [])) + scene.weights(version + 1)


def forget_learner(scene: Scene) -> None:
    for _ in range(2):
        scene.say("actor-0", m.Heartbeat(), after_s=6.0)


def test_tickets_follow_the_stage_and_groups_under_way_are_trained_with_the_old_one() -> None:
    scene, work = started()
    assert [stage_of(ticket) for ticket in work] == [0, 0, 0, 0]
    _, work = step(scene, work, 0, stage=1)
    assert [stage_of(ticket) for ticket in work] == [1, 1]
    old, work = step(scene, work, 1, stage=1)
    new, _ = step(scene, work, 2, stage=1)
    assert [len(member.rollouts) for member in old.groups + new.groups] == [2, 2, 3, 3]
    assert [member.sampling.n for member in old.groups + new.groups] == [2, 2, 3, 3]
    assert scene.core.run.counters.total["buffer/mismatched_groups"] == 0


def test_groups_of_both_stages_meet_in_one_batch() -> None:
    scene, (slow, lost, *work) = started(batch=2, eta=1)
    _, fresh = step(scene, work, 0, stage=1)
    scene.say("actor-0", m.TicketReturned(ordinal=lost.ordinal, reason="no room"))  # one ticket of version 0 is left
    batch, _ = step(scene, [slow, fresh[0]], 1, stage=1)
    assert [(member.sampling.n, len(member.rollouts)) for member in batch.groups] == [(2, 2), (3, 3)]


def test_a_prompt_that_is_issued_again_takes_the_present_stages_sampling() -> None:
    scene, work = started(eta=1, batch=1)
    lost, done = work
    scene.result(done)
    scene.take(0)
    scene.done(1, stage=1)
    scene.weights(1)
    (again, *_) = tickets(scene.say("actor-0", m.TicketReturned(ordinal=lost.ordinal, reason="")))
    assert (again.prompt, again.sampling.n) == (lost.prompt, 3)


def test_capacity_counts_every_ticket_with_its_own_rollouts() -> None:
    scene = Scene(config(batch=4, eta=0, steps=9, stages=STAGES))
    scene.actor(capacity=8)
    scene.learner()
    work = scene.weights(0)
    assert len(work) == 4
    for ticket in work:
        scene.result(ticket)
    scene.take(0)
    scene.done(1, stage=1)
    assert [stage_of(ticket) for ticket in scene.weights(1)] == [1, 1], "three of 3 rollouts are more than 8"


def test_the_stage_only_moves_forward_within_a_generation() -> None:
    scene, work = started()
    _, work = step(scene, work, 0, stage=1)
    assert scene.core.run.store.stage == 1
    _, work = step(scene, work, 1, stage=0)
    assert scene.core.run.store.stage == 1
    step(scene, work, 2, stage=7)
    assert (scene.core.run.store.stage, scene.core.run.counters.total["buffer/unknown_stages"]) == (1, 1)
    assert scene.core.run.store.version == 3


def test_a_learner_that_redoes_recorded_steps_names_earlier_stages_in_vain() -> None:
    scene, work = started()
    _, work = step(scene, work, 0)
    scene.say(LEARNER, m.CheckpointSaved(generation=1, version=1))
    _, work = step(scene, work, 1, stage=1)
    forget_learner(scene)
    assert only(scene.learner(version=1, generation=1, pid=2, stage=0), m.Welcome).generation == 1
    assert scene.core.run.store.stage == 1
    _, again = step(scene, [], 1, stage=0)
    assert {stage_of(ticket) for ticket in work + again} == {1}


def test_a_fork_takes_the_stage_and_the_prompts_of_its_checkpoint() -> None:
    scene, work = started(eta=0, batch=1)
    _, work = step(scene, work, 0)
    scene.say(LEARNER, m.CheckpointSaved(generation=1, version=1))
    before = work[0].prompt
    step(scene, work, 1, stage=1)
    forget_learner(scene)
    scene.journal.forget_from(1)
    assert only(scene.learner(version=1, generation=1, pid=2, stage=0), m.Welcome).generation == 2
    (again,) = scene.weights(1)
    assert stage_of(again) == 0
    assert again.prompt == before


def test_a_checkpoint_that_becomes_durable_later_has_the_state_of_its_version() -> None:
    scene, work = started(eta=0, batch=1, checkpoint_every=1)
    _, work = step(scene, work, 0)
    before = work[0].prompt
    _, work = step(scene, work, 1)
    scene.say(LEARNER, m.CheckpointSaved(generation=1, version=1))  # the learner's thread took a step's time to write it
    step(scene, work, 2)
    forget_learner(scene)
    scene.journal.forget_from(1)
    assert only(scene.learner(version=1, generation=1, pid=2), m.Welcome).generation == 2
    (again,) = scene.weights(1)
    assert again.prompt == before


def test_a_restarted_buffer_knows_its_stage_and_where_the_mixture_stood() -> None:
    scene, work = started(eta=0, batch=1)
    drawn = list(work)
    for version, stage in ((0, 1), (1, 1)):
        _, work = step(scene, work, version, stage=stage)
        drawn += work
    scene.result(work[0])
    assert scene.take(2) is not None  # logs where everything stands
    expected = [scene.core.run.store.prompts.next().uid for _ in range(3)]
    scene.restart()
    scene.actor()
    scene.learner(version=2, generation=1, stage=0)  # a learner of a checkpoint that is older than the stage
    assert scene.core.run.store.stage == 1
    assert [scene.core.run.store.prompts.next().uid for _ in range(3)] == expected
    assert not {ticket.prompt.uid for ticket in drawn} & set(expected)


def test_the_learners_hello_tells_a_restarted_buffer_of_a_stage_that_was_not_recorded() -> None:
    scene, work = started(eta=0, batch=1)
    step(scene, work, 0, stage=0)
    scene.restart()
    scene.actor()
    scene.learner(version=1, generation=1, stage=1)
    (again,) = scene.weights(1)  # of the prompt that its fresh actor lost, as the stage of its learner says
    assert (again.sampling.n, scene.core.run.store.prompts.next().task) == (3, "sort")


def test_validation_keeps_its_own_settings_in_every_stage() -> None:
    settings = ValidationConfig(n=2, greedy=False, temperature=0.6, max_tokens=32, every=1)
    scene = Scene(config(batch=1, eta=0, stages=STAGES, validation=settings), heldout=1)
    scene.actor()
    scene.learner()
    (before,) = scene.weights(0)
    (work,) = tickets(scene.say("actor-0", m.GroupResult(group=group(before, rollout(0), rollout(0)))))
    _, (between, *_) = step(scene, [work], 0, stage=1)
    assert between.kind is TicketKind.validation
    assert between.sampling == before.sampling
    assert (between.sampling.n, between.sampling.temperature, between.sampling.max_tokens) == (2, 0.6, 32)


def test_admission_and_status_end_with_the_stages() -> None:
    stages = [StageConfig(name="a", steps=1), StageConfig(name="b", steps=1)]
    scene, work = started(batch=1, eta=4, steps=10, stages=stages)
    assert len(work) == 2
    assert only(scene.say("nobody", m.StatusRequest()), m.Status).steps == 2
