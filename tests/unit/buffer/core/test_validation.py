from __future__ import annotations

import math

import pytest
from prolong.buffer.core.validation import Validation
from prolong.buffer.tickets.counters import Counters
from prolong.buffer.tickets.store import MAX_ATTEMPTS
from prolong.common.config.sections import ValidationConfig
from prolong.common.types import Prompt, Ticket, TicketKind

from ..scene import group, prompt, rollout

HELDOUT = [prompt(0, task="sum"), prompt(1, task="sum"), prompt(2, task="sort")]
NEWEST = 9


class Sweeps(Validation):
    """Validation that hands out its own ordinals."""

    def __init__(self, heldout: list[Prompt], *, every: int = 0, prompts: int = 0, greedy: bool = True, n: int = 2) -> None:
        self.counters = Counters()
        settings = ValidationConfig(
            every=every, prompts=prompts, n=n, greedy=greedy, temperature=0.6, top_p=0.95, top_k=20, min_p=0.1, stop=["<end>"]
        )
        super().__init__(settings, heldout, 0, 60.0, self.counters, model_ids=None)
        self.ordinal = 0

    def tickets(self, version: int) -> list[Ticket]:
        """All that an actor of this version may have."""
        given: list[Ticket] = []
        while self.wanted(version) is not None:
            given.append(self.issue(self.ordinal, 1, version))
            self.ordinal += 1
        return given

    def answer(self, ticket: Ticket, *rewards: float | None, version: int | None = None) -> str:
        made = ticket.version if version is None else version
        return self.take_group(group(ticket, *(rollout(made, reward=reward) for reward in rewards)), ticket.version, NEWEST)


def test_a_version_that_no_actor_can_have_held_is_asked_again() -> None:
    sweeps = Sweeps(HELDOUT)
    sweeps.start_whole(3, blocks=True)
    given = sweeps.tickets(3)
    for version in (2, NEWEST + 1):
        assert "are not in 3..9" in sweeps.answer(given.pop(0), 1.0, version=version)
    assert len(sweeps.tickets(3)) == 2


def test_the_sweep_before_samples_and_is_greedy_over_every_prompt_and_blocks_training() -> None:
    sweeps = Sweeps(HELDOUT)
    sweeps.start_whole(0, blocks=True)
    assert sweeps.blocks_training
    given = sweeps.tickets(0)
    assert [(t.setting, t.sampling.n, t.sampling.temperature, t.sampling.top_p) for t in given] == (
        [("sampled", 2, 0.6, 0.95)] * 3 + [("greedy", 1, 0.0, 1.0)] * 3
    )
    assert [(t.sampling.top_k, t.sampling.min_p, t.sampling.stop) for t in given] == (
        [(20, 0.1, ("<end>",))] * 3 + [(0, 0.0, ("<end>",))] * 3
    )
    assert {t.kind for t in given} == {TicketKind.validation}
    for ticket in given:
        sweeps.answer(ticket, *[1.0] * ticket.sampling.n)
    assert not sweeps.blocks_training
    assert sweeps.idle
    assert [score.setting for score in sweeps.scores] == ["sampled", "greedy"]


def test_every_task_weighs_the_same_and_the_versions_that_spoke_are_named() -> None:
    sweeps = Sweeps(HELDOUT, greedy=False)
    sweeps.start_whole(4, blocks=False)
    first, second, third = sweeps.tickets(4)
    sweeps.answer(first, 1.0, 1.0)
    sweeps.answer(second, 1.0, 0.0, version=5)
    assert sweeps.scores == []
    sweeps.answer(third, 0.0, None)  # a verdict that failed counts for nothing
    (score,) = sweeps.scores
    assert score.by_task == {"math/sort": 0.0, "math/sum": 0.75}
    assert score.mean == pytest.approx(0.375)
    assert (score.version, score.versions, score.num_rollouts) == (4, [4, 5], 5)


def test_an_actor_with_older_weights_gets_no_ticket_of_the_sweep() -> None:
    sweeps = Sweeps(HELDOUT)
    sweeps.start_whole(3, blocks=False)
    assert sweeps.wanted(2) is None
    assert sweeps.wanted(3) is not None


def test_sweeps_between_are_sampled_on_few_prompts_per_task_every_n_versions() -> None:
    sweeps = Sweeps(HELDOUT, every=2, prompts=1)
    sweeps.maybe_start_between(1)
    assert sweeps.idle
    sweeps.maybe_start_between(2)
    given = sweeps.tickets(2)
    assert [(t.prompt.task, t.setting) for t in given] == [("sum", "sampled"), ("sort", "sampled")]
    assert not sweeps.blocks_training


def test_a_sweep_is_skipped_and_counted_while_another_is_under_way() -> None:
    sweeps = Sweeps(HELDOUT, every=1)
    sweeps.maybe_start_between(1)
    sweeps.maybe_start_between(2)
    assert sweeps.counters.total["validation/skipped_sweeps"] == 1
    assert {t.version for t in sweeps.tickets(9)} == {9}
    assert sweeps.wanted(9) is None


def test_a_lost_ticket_is_asked_again_and_given_up_after_some_attempts() -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False)
    sweeps.start_whole(0, blocks=True)
    for _ in range(MAX_ATTEMPTS):
        (ticket,) = sweeps.tickets(0)
        sweeps.fail_ticket(ticket.ordinal)
    assert sweeps.idle, "one prompt that kills every actor must not hold up the run for ever"
    assert sweeps.counters.total["validation/prompts_given_up"] == 1
    assert sweeps.scores == [], "a score of 0 without a measurement would look like a collapse"
    assert sweeps.counters.total["validation/empty_sweeps"] == 1


def test_a_group_without_any_reward_is_asked_again() -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False)
    sweeps.start_whole(0, blocks=False)
    (ticket,) = sweeps.tickets(0)
    assert sweeps.answer(ticket, None, None) == "no rollout has a reward"
    (again,) = sweeps.tickets(0)
    assert again.prompt == ticket.prompt


def test_what_is_scored_is_not_swept_again() -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False)
    for _ in range(2):
        sweeps.start_whole(0, blocks=True)
        for ticket in sweeps.tickets(0):
            sweeps.answer(ticket, 1.0)
    assert len(sweeps.scores) == 1


def test_scores_are_reported_once_and_those_of_a_dead_generation_are_dropped() -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False, every=1)
    for version in (1, 2):
        sweeps.maybe_start_between(version)
        for ticket in sweeps.tickets(version):
            sweeps.answer(ticket, 1.0)
    assert [score.version for score in sweeps.take_unreported()] == [1, 2]
    assert sweeps.take_unreported() == []
    sweeps.maybe_start_between(3)
    sweeps.rewind(1, reported=1)
    assert sweeps.idle
    assert [score.version for score in sweeps.scores] == [1]
    assert sweeps.take_unreported() == []


def test_a_score_that_the_learner_of_the_next_generation_was_not_given_is_reported_to_it() -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False, every=1)
    sweeps.maybe_start_between(1)
    for ticket in sweeps.tickets(1):
        sweeps.answer(ticket, 1.0)
    sweeps.take_unreported()
    sweeps.rewind(1, reported=0)
    assert [score.version for score in sweeps.take_unreported()] == [1]


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_does_not_reach_a_score(reward: float) -> None:
    sweeps = Sweeps([HELDOUT[0]], greedy=False)
    sweeps.start_whole(0, blocks=False)
    (ticket,) = sweeps.tickets(0)
    assert f"rollout 1: reward {reward}" in sweeps.answer(ticket, 1.0, reward)
    assert sweeps.counters.total["buffer/flawed_nonfinite"] == 1
    (again,) = sweeps.tickets(0)
    sweeps.answer(again, 1.0, 0.5)
    assert [score.mean for score in sweeps.scores] == [0.75]


def finish_between(sweeps: Sweeps, *, all_of_it: bool) -> list[Ticket]:
    """A run ends at a version that also had a sweep of few prompts; the tickets of the sweep after."""
    sweeps.maybe_start_between(2)
    few = sweeps.tickets(2)
    assert len(few) == 2
    for ticket in few if all_of_it else few[:1]:
        sweeps.answer(ticket, 0.0, 0.0)
    sweeps.take_unreported()
    sweeps.start_whole(2, blocks=False)
    after = sweeps.tickets(2)
    for ticket in after if all_of_it else [few[1], *after]:
        sweeps.answer(ticket, 1.0, 1.0)
    assert sweeps.idle
    return after


def test_a_sweep_between_under_way_at_the_end_becomes_the_whole_one() -> None:
    sweeps = Sweeps(HELDOUT, every=2, prompts=1, greedy=False)
    assert [ticket.prompt for ticket in finish_between(sweeps, all_of_it=False)] == [HELDOUT[1]]
    (score,) = sweeps.scores
    assert (score.by_task, score.num_rollouts) == ({"math/sort": 1.0, "math/sum": 0.5}, 6)


def test_a_sweep_between_that_ended_at_the_last_version_gives_way_to_the_whole_one() -> None:
    sweeps = Sweeps(HELDOUT, every=2, prompts=1, greedy=False)
    assert len(finish_between(sweeps, all_of_it=True)) == len(HELDOUT)
    assert [(score.mean, score.num_rollouts) for score in sweeps.scores] == [(1.0, 6)]
    assert sweeps.take_unreported() == sweeps.scores
    sweeps.start_whole(2, blocks=False)
    assert sweeps.idle


def test_without_heldout_prompts_there_is_nothing_to_wait_for() -> None:
    sweeps = Sweeps([], every=1)
    sweeps.start_whole(0, blocks=True)
    sweeps.maybe_start_between(1)
    assert sweeps.idle
    assert not sweeps.blocks_training
