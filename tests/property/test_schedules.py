"""The shipped buffer and client sessions over random schedules: slow, lagging and dying processes, networks and disks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from prolong.common.config.sections import Preference, Straggler

from tests.simulator.audit import Stuck
from tests.simulator.campaign import run
from tests.simulator.faults import BUFFER_DEATHS, HARSH, Kind
from tests.simulator.plan import Plan

FIRST = 300  # schedules, which together must reach every state listed below
PER_TEST = 150
CHUNKS = 5
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_schedule_breaks_the_bound_the_ledger_the_journal_or_the_run(chunk: int) -> None:
    for seed in range(FIRST + chunk * PER_TEST, FIRST + (chunk + 1) * PER_TEST):
        run(Plan.draw(seed))


@pytest.mark.slow
def test_the_schedules_reach_what_they_are_meant_to_reach() -> None:
    happened: Counter[str] = Counter()
    policies: set[tuple[Straggler, Preference]] = set()
    for seed in range(FIRST):
        world = run(Plan.draw(seed))
        policies.add((world.plan.straggler, world.plan.preference))
        happened.update({name: min(count, 1) for name, count in world.core.run.counters.total.items()})
        happened.update(world.struck.keys(), **{f"killed: {where}": 1 for where in world.deaths})
        happened["continued"] += world.learner_restarts > 0 and world.forks == 0
        happened["forked"] += world.forks > 0
        happened["buffer restarted"] += world.buffer_crashes > 0
        happened["served again"] += world.judge.num_served_again > 0
        happened["eta 0"] += world.plan.eta == 0
        happened["stage changed"] += world.core.run.store.stage > 0
        happened["stages met in a batch"] += world.judge.num_mixed > 0
        happened["ended early with work under way"] += (
            world.plan.last < world.plan.steps and world.core.run.store.ledger.as_dict()["stale"] > 0
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
        "buffer/left_actors",
        "buffer/failed_publishes",
        "buffer/dead_generation",
        "buffer/journal_full",
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
        *(kind for kind in Kind if kind not in HARSH),
        *(f"killed: buffer {where}" for where in BUFFER_DEATHS),
    ):
        assert happened[what] >= 3, f"{what} happened in {happened[what]} of {FIRST} schedules: the test shows nothing about it"


def test_a_seed_replays_exactly_in_another_process() -> None:
    seeds = [seed for seed in range(40) if Plan.draw(seed).faults][:6]
    again = f"from tests.simulator.campaign import run, Plan\nfor seed in {seeds}: print(run(Plan.draw(seed)).trace_hash)"
    here = [run(Plan.draw(seed)).trace_hash for seed in seeds]
    for hash_seed in ("1", "2"):
        # with all that may change how numbers are rounded
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", again], env=environment, capture_output=True, text=True, check=True, timeout=250
        )
        assert done.stdout.split("\n")[:-1] == here
    assert len(set(here)) == len(here)


def test_a_failure_names_its_seed_and_its_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = next(plan for plan in map(Plan.draw, range(100)) if plan.faults and plan.faults[0].event < 50)
    monkeypatch.setattr(plan, "max_events", 50)
    with pytest.raises(Stuck) as failure:
        run(plan)
    (note,) = failure.value.__notes__
    assert f"draw({plan.seed})" in note
    assert str(plan.faults[0]) in note
