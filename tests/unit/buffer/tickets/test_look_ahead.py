"""The next prompts: chosen out of order, none lost and none twice, over restarts and stages."""

from __future__ import annotations

import random
from collections import Counter

from prolong.buffer.tickets.look_ahead import PASSES, LookAhead
from prolong.buffer.tickets.mixture import PromptMixture
from prolong.buffer.tickets.retries import Retries
from prolong.common.types import Prompt

from ..scene import prompt

SIZE = 7  # prompts in each source: an epoch ends soon


def mixture() -> PromptMixture:
    return PromptMixture([([prompt(i, task=task) for i in range(SIZE)], 1.0) for task in ("sum", "sort")], seed=3)


def test_the_order_is_the_sources_if_nobody_chooses() -> None:
    ahead, source = LookAhead(mixture(), Retries()), mixture()
    for _ in range(20):
        assert ahead.offer(1) == [expected := source.next()]
        assert ahead.take() == (expected, 0)
    assert ahead.cursor == source.cursor
    assert ahead.skips == []


def test_prompts_of_failed_tickets_go_first_each_alone() -> None:
    retries = Retries()
    ahead = LookAhead(mixture(), retries)
    first, second, fresh = prompt(90), prompt(91), ahead.offer(2)
    retries.add(first, 1)
    retries.add(second, 4)
    assert ahead.offer(3) == [first]
    assert ahead.take() == (first, 1)
    assert ahead.take() == (second, 4)
    assert ahead.offer(2) == fresh


def test_a_prompt_that_is_passed_over_often_is_offered_alone() -> None:
    ahead = LookAhead(mixture(), Retries())
    oldest = ahead.offer(4)[0]
    for _ in range(PASSES * 4 + 1):
        assert len(ahead.offer(4)) == 4
        ahead.take(3)
    assert ahead.offer(4) == [oldest]
    assert ahead.take() == (oldest, 0)


def test_no_prompt_is_lost_or_issued_twice_whatever_is_chosen_and_whenever_the_buffer_starts_again() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        ahead, plain, issued = LookAhead(mixture(), Retries()), mixture(), []
        for _ in range(rng.randint(10, 80)):
            offered = ahead.offer(rng.choice((1, 3, 5)))
            choice = rng.randrange(len(offered))
            assert ahead.take(choice) == (offered[choice], 0)
            issued.append(offered[choice].uid)
            if rng.random() < 0.2:
                state = ahead.cursor, ahead.skips
                ahead = LookAhead(mixture(), Retries())
                ahead.restore(*state)
                assert (ahead.cursor, ahead.skips) == state
        waiting = [one.uid for one in ahead.offer(1)]
        while ahead.skips:  # until no prompt waits that is older than one that was issued
            issued.append(ahead.take()[0].uid)
        assert waiting
        assert Counter(issued) == Counter(plain.next().uid for _ in issued)


def test_a_stage_draws_what_waits_by_its_own_weights_and_comes_back_to_what_it_left_out() -> None:
    ahead = LookAhead(mixture(), Retries())
    taken = [ahead.offer(6)[index] for index in (5, 3)]
    assert ahead.take(5)[0] == taken[0]
    assert ahead.take(3)[0] == taken[1]
    ahead.weigh([0.0, 1.0])
    sorts: list[Prompt] = [ahead.take()[0] for _ in range(SIZE - sum(one.task == "sort" for one in taken))]
    assert {one.task for one in sorts} == {"sort"}
    assert len({one.uid for one in (*sorts, *taken) if one.task == "sort"}) == SIZE, "one epoch, each prompt once"
    ahead.weigh([1.0, 0.0])
    sums = [ahead.take()[0] for _ in range(SIZE - sum(one.task == "sum" for one in taken))]
    assert len({one.uid for one in (*sums, *taken) if one.task == "sum"}) == SIZE
