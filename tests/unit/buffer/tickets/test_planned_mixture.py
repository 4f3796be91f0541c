"""A mixture that follows plans keeps the contract of every source of prompts, and the shares of files and domains."""

from __future__ import annotations

from collections import Counter

import pytest
from prolong.buffer.journal.records import Known, PlanRecord, PromptCursor
from prolong.buffer.tickets.look_ahead import LookAhead
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.buffer.tickets.planned_mixture import PlannedMixture
from prolong.buffer.tickets.retries import Retries
from prolong.common.config.curriculum import CurriculumConfig
from prolong.common.errors import DataError

from tests.support.prompt_source import check_prompt_source
from tests.unit.buffer.scene import prompt

RULES = CurriculumConfig()
MATH = [prompt(index, task="sum") for index in range(30)]
LOGIC = [prompt(index, domain="logic", task="sort") for index in range(10)]
OTHER = [prompt(index, domain="code", task="program") for index in range(20)]
# the sums that are solved: the first twenty
PLAN = PlanRecord(
    number=3,
    law=1,
    version=16,
    generation=1,
    rules=RULES,
    num_observations=9,
    known={one.uid: Known(16, 16) for one in MATH[:20]},
)


def source(*, planned: bool = True) -> PlannedMixture:
    made = PlannedMixture([([*MATH, *LOGIC], 3.0), (OTHER, 1.0)], 5, RULES)
    made.recall = {3: PLAN}.get
    if planned:
        made.begin(PLAN)
    return made


@pytest.mark.parametrize("planned", [True, False])
def test_it_passes_the_contract(planned: bool) -> None:
    check_prompt_source(lambda: source(planned=planned), [3.0, 1.0])


def test_a_buffer_that_starts_again_finds_the_plan_by_the_cursor() -> None:
    before = source()
    drawn = [before.next() for _ in range(7)]
    after = source(planned=False)
    after.restore(before.cursor)
    assert after.number == 3
    assert [after.next() for _ in range(30)] == [before.next() for _ in range(30)]
    assert drawn


def test_files_and_domains_keep_their_shares_and_solved_prompts_rest() -> None:
    mixture = source()
    drawn = [mixture.next() for _ in range(24)]
    assert Counter(one.domain for one in drawn) == {
        "math": pytest.approx(13, abs=1),
        "logic": pytest.approx(5, abs=1),
        "code": 6,
    }
    solved = {one.uid for one in MATH[:20]}
    sums = [one.uid in solved for one in drawn if one.domain == "math"]
    assert sums[:10] == [False] * 10, "those that are not solved come first"
    assert all(sums[10:]), "their domain keeps its share, so that solved ones follow"


def test_under_one_plan_every_prompt_is_drawn_once_before_any_is_drawn_twice() -> None:
    mixture = PlannedMixture([(OTHER, 1.0)], 0, RULES)
    drawn = [mixture.next().uid for _ in range(60)]
    assert all(sorted(drawn[start : start + 20]) == sorted(one.uid for one in OTHER) for start in (0, 20, 40))
    assert drawn[:20] != drawn[20:40]


def test_a_cursor_of_a_plain_mixture_is_understood_and_that_of_a_lost_plan_refused() -> None:
    plain = PromptMixture([([*MATH, *LOGIC], 3.0), (OTHER, 1.0)], 5)
    plain.next()
    mixture = source()
    mixture.restore(plain.cursor)
    assert mixture.number == 0
    with pytest.raises(DataError, match="plan 7 of its curriculum, which the journal no longer holds"):
        mixture.restore(PromptCursor(credits=[0.0, 0.0], drawn=[0, 0], position="plan 7"))
    plain.restore(source().cursor)


def test_prompts_that_were_drawn_ahead_lose_their_turn_to_the_plan() -> None:
    mixture = source(planned=False)
    ahead = LookAhead(mixture, Retries())
    ahead.offer(6)
    ahead.take(3)
    assert ahead.skips
    ahead.begin_anew(lambda: mixture.begin(PLAN))
    assert ahead.skips == []
    assert ahead.cursor.position == "plan 3"
    fresh = source()
    assert [ahead.take()[0].domain for _ in range(4)] == [fresh.next().domain for _ in range(4)]


def test_the_numbers_of_a_step_say_what_the_plan_knows() -> None:
    assert source().metrics(PLAN) == {
        "curriculum/plan": 3.0,
        "curriculum/known": pytest.approx(20 / 60),
        "curriculum/resting": pytest.approx(20 / 60),
        "curriculum/learnability": pytest.approx(4 / 6 * 40 / 60),
    }
