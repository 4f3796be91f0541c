"""The rules of a curriculum: what a group says, what a prompt weighs, in which order a source is drawn, and when."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from prolong.buffer.journal.records import Known, Observation, PlanRecord, SweepNote, pack_record, unpack_record
from prolong.buffer.tickets.curriculum import (
    PLATEAU,
    check_plans,
    is_due,
    learnability,
    newest_sweep,
    next_plan,
    observed,
    planned_order,
    rests,
    sweep_notes,
)
from prolong.common.config.curriculum import CurriculumConfig
from prolong.common.types import ValidationScore, ValidationSetting

from tests.unit.buffer.scene import prompt

RULES = CurriculumConfig(every=4, solved=0.9, memory=0.5, plateau=2)


def plan(
    last: PlanRecord | None = None, *seen: Observation, sweeps: tuple[SweepNote, ...] = (), version: int = 4
) -> PlanRecord:
    before = 0 if last is None else last.num_observations
    about = {"version": version, "generation": 1, "num_observations": before + len(seen)}
    return next_plan(last, seen, sweeps, RULES, **about)


def test_a_group_says_the_mean_reward_of_its_rollouts_as_a_share_of_one() -> None:
    assert observed(prompt(3), [1.0, 0.5, 2.0, -1.0]) == Observation("sum/3", 4, 2.5)


def test_the_weight_of_a_prompt_is_the_expected_variance_of_its_rewards() -> None:
    """Against an integral over Beta(1 + right, 1 + wrong)."""
    for right, wrong in [(0, 0), (3, 5), (0, 16), (12, 4)]:
        p = (np.arange(200_000) + 0.5) / 200_000
        density = p**right * (1 - p) ** wrong
        expected = 4 * float((p * (1 - p) * density).sum() / density.sum())
        assert learnability(Known(right + wrong, right), RULES) == pytest.approx(expected, rel=1e-6)


def test_solved_prompts_rest_and_those_of_even_odds_weigh_most() -> None:
    weights = [learnability(Known(16, right), RULES) for right in range(17)]
    assert weights[15:] == [0.0, 0.0]
    assert weights[0] > 0, "a hopeless prompt may become learnable"
    assert max(weights) == weights[8]
    assert not rests(Known(3, 3), RULES), "three rollouts show nothing"


def test_what_is_known_fades_and_is_added_to() -> None:
    first = plan(None, Observation("a", 8, 8.0), Observation("b", 1, 0.0), Observation("a", 8, 4.0))
    assert first.known == {"a": (16, 12), "b": (1, 0)}
    second = plan(first, Observation("a", 2, 0.0), version=8)
    assert second.known == {"a": (10, 6), "b": (0.5, 0)}
    assert plan(second, version=12).known == {"a": (5, 3)}, "half a rollout of b is forgotten"


def test_a_solved_prompt_is_tried_again_once_it_is_forgotten() -> None:
    known, steps = Known(16, 16), 0
    while rests(known, RULES):
        known, steps = Known(known.rollouts * RULES.memory, known.reward * RULES.memory), steps + 1
    assert steps == 3


def test_sweeps_without_a_better_score_are_a_plateau_and_all_is_measured_anew() -> None:
    first = plan(None, Observation("a", 16, 16.0), sweeps=(SweepNote(2, 0.5), SweepNote(4, 0.4)))
    assert (first.best, first.since, first.why) == (0.5, 1, "first plan")
    second = plan(first, sweeps=(SweepNote(6, 0.5),), version=8)
    assert second.why == PLATEAU
    assert second.known == {"a": (1, 1)}
    assert (second.best, second.since) == (0.5, 0)
    assert plan(second, sweeps=(SweepNote(10, 0.6),), version=12).best == 0.6


def test_nothing_rests_after_a_plateau_however_much_was_known() -> None:
    seen = (Observation("a", 512, 512.0), Observation("b", 64, 16.0), Observation("c", 1, 1.0))
    first = plan(None, *seen, Observation("d", 0, 0.0), sweeps=(SweepNote(2, 0.5), SweepNote(3, 0.5), SweepNote(4, 0.5)))
    assert first.why == PLATEAU
    assert first.known == {"a": (1, 1), "b": (1, 0.25), "c": (1, 1)}, "pass rates stay"
    assert not any(rests(one, RULES) for one in first.known.values())
    forgetful = CurriculumConfig(every=4, memory=0.0, plateau=1)
    about = {"version": 8, "generation": 1, "num_observations": 4}
    assert next_plan(first, [], [SweepNote(6, 0.5)], forgetful, **about).known == {}


def test_plans_are_due_at_multiples_and_once() -> None:
    last = plan(None, version=8)
    assert [version for version in range(20) if is_due(None, version, 1, RULES)] == [4, 8, 12, 16]
    assert [version for version in range(20) if is_due(last, version, 1, RULES)] == [12, 16]
    assert is_due(last, 4, 2, RULES), "another generation makes its own"


def test_only_sampled_sweeps_that_no_plan_heard_of_count() -> None:
    def score(version: int, setting: ValidationSetting) -> ValidationScore:
        return ValidationScore(version=version, versions=[], setting=setting, by_task={}, mean=0.5, num_rollouts=1)

    scores = [score(5, ValidationSetting.sampled), score(0, ValidationSetting.sampled), score(0, ValidationSetting.greedy)]
    assert sweep_notes(scores, -1) == [SweepNote(0, 0.5), SweepNote(5, 0.5)]
    assert sweep_notes(scores, 0) == [SweepNote(5, 0.5)]
    heard = plan(None, sweeps=(SweepNote(2, 0.5),))
    assert (newest_sweep(None, 1), newest_sweep(heard, 1), newest_sweep(heard, 2)) == (-1, 2, -1)


def test_a_sweep_that_ends_after_the_plan_of_its_version_is_heard_by_the_next() -> None:
    first = plan(None, sweeps=(SweepNote(2, 0.5),))
    second = plan(first, version=8)
    assert newest_sweep(second, 1) == 2, "that of version 6 is under way"
    third = plan(second, sweeps=(SweepNote(6, 0.4),), version=12)
    assert (newest_sweep(third, 1), third.since) == (6, 1)


def test_the_first_plan_of_a_generation_counts_the_sweeps_that_are_left_and_no_other() -> None:
    given_up = plan(None, sweeps=(SweepNote(0, 0.25), SweepNote(4, 0.75)))
    about = {"version": 4, "generation": 2, "num_observations": 0}
    first = next_plan(given_up, [], [SweepNote(0, 0.25)], RULES, **about)
    assert (first.best, first.since, newest_sweep(first, 2)) == (0.25, 0, 0)


def test_the_order_favours_by_weight_and_ends_with_what_rests() -> None:
    weights = np.array([1.0] * 100 + [0.1] * 100 + [0.0] * 50)
    domains = np.zeros(250, dtype=int)
    early = np.zeros(250)
    for seed in range(200):
        order = planned_order(weights, domains, [seed])
        assert sorted(order) == list(range(250))
        assert set(order[200:]) == set(range(200, 250))
        early[order[:50]] += 1
    assert early[:100].sum() / early[100:200].sum() == pytest.approx(10, rel=0.35)


def test_the_first_prompt_is_drawn_with_the_share_of_its_weight() -> None:
    weights = np.array([1.0, 2.0, 5.0])
    firsts = np.bincount([planned_order(weights, np.zeros(3, dtype=int), [seed])[0] for seed in range(4000)], minlength=3)
    assert firsts / 4000 == pytest.approx(weights / 8, abs=0.025)


def test_every_stretch_of_the_order_keeps_the_share_of_each_domain() -> None:
    """Also where all prompts of a domain rest: some share of each domain, rounded up or down, gives the counts of a stretch."""
    sizes = np.array([60, 30, 7, 1, 1])
    domains = np.repeat(np.arange(5), sizes)
    weights = np.where(domains == 1, 0.0, 1.0)
    for seed in range(20):
        order = planned_order(weights, domains, [seed])
        for start in range(90):
            counts = np.bincount(domains[order[start : start + 10]], minlength=5)
            assert ((counts - 1) / sizes).max() < ((counts + 1) / sizes).min()


def test_a_small_domain_has_its_share_of_draws_also_when_each_plan_is_drawn_in_part() -> None:
    domains = np.array([0] * 990 + [1] * 10)
    drawn = [domains[planned_order(np.ones(1000), domains, [seed])[:20]].sum() for seed in range(2000)]
    assert np.mean(drawn) == pytest.approx(20 * 10 / 1000, rel=0.2)


def chain() -> tuple[list[PlanRecord], dict[int, list[Observation]]]:
    seen = {
        0: [Observation("a", 2, 1.0), Observation("b", 2, 2.0)],
        2: [Observation("a", 2, 0.0)],
        3: [Observation("c", 2, 0.0)],
    }
    first = plan(None, *seen[0], sweeps=(SweepNote(0, 0.25),))
    second = plan(first, *seen[2], *seen[3], version=8)
    return [first, second], seen


def test_plans_follow_from_their_records_and_another_number_is_found() -> None:
    plans, seen = chain()
    read = [unpack_record(pack_record(one), PlanRecord, "here") for one in plans]
    assert read == plans
    assert check_plans(read, seen) == []
    changed = msgspec.structs.replace(plans[1], known=plans[1].known | {"a": Known(2.5, 0.5)})
    (wrong,) = check_plans([plans[0], changed], seen)
    assert wrong.sentence().startswith("plan 2 of the curriculum: it records 3 prompts known")
    (wrong,) = check_plans([msgspec.structs.replace(plans[0], best=0.5)], seen)
    assert wrong.number == 1


def test_plans_whose_observations_are_gone_or_whose_rules_changed_are_not_judged() -> None:
    plans, seen = chain()
    broken = msgspec.structs.replace(plans[1], known={})
    assert check_plans([plans[0], broken], {0: seen[0], 2: seen[2]}) == []
    assert check_plans([broken], seen) == []
    assert check_plans([plans[0], msgspec.structs.replace(broken, law=99)], seen) == []


class Watched(PlanRecord, frozen=True, kw_only=True, weakref=True):
    """A plan of which a test sees whether it is still held."""


def test_plans_are_checked_two_at_a_time() -> None:
    refs: list[weakref.ref[Watched]] = []

    def read() -> Iterator[Watched]:
        for number in range(1, 6):
            assert sum(ref() is not None for ref in refs) <= 1
            made = Watched(number=number, law=99, version=number, generation=1, rules=RULES, num_observations=0, known={})
            refs.append(weakref.ref(made))
            yield made
            del made

    assert check_plans(read(), {}) == []
    assert len(refs) == 5


def test_the_smallest_weights_are_numbers() -> None:
    assert math.isfinite(learnability(Known(1e9, 0.0), RULES))
    order = planned_order(np.array([1e-300, 1.0]), np.zeros(2, dtype=int), [0])
    assert order.tolist() == [1, 0]
