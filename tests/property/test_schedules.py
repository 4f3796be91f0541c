"""The staleness contract over random schedules of the real core: slow, lagging, dying and lying clients, every policy."""

from __future__ import annotations

from collections import Counter

import pytest
from prolong.common.config import Preference, Straggler

from .plan import Plan
from .simulator import World

PER_TEST = 500
CHUNKS = 21  # 10,500 schedules


def run(seed: int) -> World:
    plan = Plan.draw(seed)
    world = World(plan)
    try:
        world.run()
    except BaseException as error:
        error.add_note(f"seed {seed}: {plan}")
        raise
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_schedule_breaks_the_bound_the_ledger_or_the_run(chunk: int) -> None:
    for seed in range(chunk * PER_TEST, (chunk + 1) * PER_TEST):
        run(seed)


def test_the_schedules_reach_what_they_are_meant_to_reach() -> None:
    happened: Counter[str] = Counter()
    policies: set[tuple[Straggler, Preference]] = set()
    for seed in range(400):
        world = run(seed)
        policies.add((world.plan.straggler, world.plan.preference))
        happened.update({name: min(count, 1) for name, count in world.core.counters.total.items()})
        happened["continued"] += world.learner.pid > 0 and world.forks == 0
        happened["forked"] += world.forks > 0
        happened["buffer restarted"] += world.buffer_crashes > 0
        happened["served again"] += world.judge.num_served_again > 0
        happened["eta 0"] += world.plan.eta == 0
        happened["stage changed"] += world.core.store.stage > 0
        happened["stages met in a batch"] += world.judge.num_mixed > 0
        happened["ended early with work under way"] += (
            world.plan.last < world.plan.steps and world.core.store.ledger.as_dict()["stale"] > 0
        )
        happened["tickets sent again"] += world.judge.num_sent_again > 0
        happened["reset"] += world.judge.num_resets > 0
        happened["reset after the buffer restarted"] += world.judge.num_resets_across_crashes > 0
    assert len(policies) == len(Straggler) * len(Preference)
    for what in (
        "buffer/filtered",
        "buffer/bypassed",
        "buffer/evicted",
        "buffer/lost_leases",
        "buffer/duplicates",
        "buffer/returned",
        "buffer/lost_actors",
        "buffer/failed_publishes",
        "buffer/dead_generation",
        "continued",
        "forked",
        "buffer restarted",
        "served again",
        "eta 0",
        "stage changed",
        "stages met in a batch",
        "ended early with work under way",
        "tickets sent again",
        "reset",
        "reset after the buffer restarted",
    ):
        assert happened[what] >= 3, f"{what} happened in {happened[what]} of 400 schedules: the test shows nothing about it"


def test_a_seed_is_a_schedule() -> None:
    first, second = run(77), run(77)
    assert first.judge.handed_out == second.judge.handed_out
    assert first.now == second.now
