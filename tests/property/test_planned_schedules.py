"""Whole simulated runs whose prompts are drawn by the plans of a curriculum, under faults: kills, restarts, full disks.

The simulator compares a restarted buffer with what it was at its last commit: plan, observations, cursor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prolong.buffer.audit import audit
from prolong.buffer.core.curriculum_control import CurriculumControl
from prolong.buffer.journal.journal import Journal
from prolong.buffer.tickets.curriculum import PLATEAU

from tests.simulator.audit import Violation
from tests.simulator.campaign import run, run_all
from tests.simulator.host import WatchedJournal
from tests.simulator.plan import Plan
from tests.simulator.world import World

SCHEDULES = 40

Patch = pytest.MonkeyPatch


def audited() -> Iterator[tuple[World, Journal]]:
    """Every schedule, run to its end: the audit of its journal finds nothing."""
    for seed in range(SCHEDULES):
        world = run(Plan.planned(seed))
        journal = Journal(world.disk.open())
        assert audit(journal).findings == [], f"seed {seed}"
        yield world, journal


def test_plans_survive_faults_and_follow_from_what_is_recorded() -> None:
    happened: Counter[str] = Counter()
    for world, journal in audited():
        newest = journal.newest_plan()
        planned = newest is not None
        happened["several plans"] += newest is not None and newest.number > 2
        happened["a plateau"] += newest is not None and newest.why == PLATEAU
        happened["planned, and the buffer restarted"] += planned and world.buffer_crashes > 0
        happened["planned, and steps were repeated"] += planned and world.judge.num_served_again > 0
        happened["planned, and a generation began"] += planned and world.forks > 0
    for what, count in happened.items():
        assert count >= 3, f"{what}: {count} of {SCHEDULES} schedules"


def test_plans_of_a_kept_history_follow_from_their_outlines_whatever_happened(monkeypatch: Patch) -> None:
    """The audit makes every plan again from the first, and compares those that are whole."""
    begin = WatchedJournal.__init__

    def begin_with_history(self: WatchedJournal, *about: Any) -> None:
        begin(self, *about)
        self._keep_history = True

    monkeypatch.setattr(WatchedJournal, "__init__", begin_with_history)
    happened: Counter[str] = Counter()
    for world, journal in audited():
        outlines = journal.plan_outlines()
        happened["several outlines"] += len(outlines) > 2
        happened["outlines, and the buffer restarted"] += bool(outlines) and world.buffer_crashes > 0
        happened["outlines, and a generation began"] += bool(outlines) and world.forks > 0
    for what in ("several outlines", "outlines, and the buffer restarted", "outlines, and a generation began"):
        assert happened[what] >= 3, f"{what}: {happened[what]} of {SCHEDULES} schedules"


def observations_lost_by_a_restart(patch: Patch) -> None:
    restore_well = CurriculumControl.restore

    def restore(self: CurriculumControl) -> None:
        restore_well(self)
        self._since = []

    patch.setattr(CurriculumControl, "restore", restore)


def a_cursor_without_its_plan(patch: Patch) -> None:
    patch.setattr("prolong.buffer.tickets.planned_mixture.plan_number", lambda cursor: 0)


@pytest.mark.parametrize("mistake", [observations_lost_by_a_restart, a_cursor_without_its_plan])
def test_a_restart_that_forgets_a_part_of_it_is_found(mistake: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mistake(monkeypatch)
    with pytest.raises(Violation, match="a restarted buffer differs"):
        run_all(Plan.planned(seed) for seed in range(SCHEDULES))
