"""Buffer, learner and actors may start in any order, with any time between them."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import pytest

from tests.simulator.plan import Plan
from tests.simulator.world import World

SEEDS = range(6)
# Virtual seconds between two starts. After 10 s of silence a client counts as gone; it waits 120 s for its first Welcome.
GAPS_S = (0.5, 15.0, 50.0)


@pytest.mark.parametrize("order", list(permutations(["buffer", "learner", "actors"])), ids="-".join)
def test_any_start_order_reaches_the_same_end(order: tuple[str, ...]) -> None:
    for seed in SEEDS:
        plan = dataclasses.replace(Plan.draw(seed), faults=[], hang=0.0, returned=0.0, bad_weights=0.0)
        for gap_s in GAPS_S:
            world = World(plan, starts={name: index * gap_s for index, name in enumerate(order)})
            world.run()  # the judge: every step was made, every ticket is accounted for, no group is lost
            assert world.learner_restarts == world.buffer_crashes == 0
            assert world.judge.generation == 1
            counters = world.core.run.counters.total
            assert counters["buffer/lost_actors"] == 0, "no process was taken for dead while another one started"
            assert counters["buffer/refused"] == 0
