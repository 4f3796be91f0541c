"""Actors that leave again and again over random schedules: what they hand over is trained once, by its rules, or given up.

The judge knows what each actor handed over and which actor went on with it; bugs that are planted show that it looks.
`make soak` (PROLONG_SOAK=1) runs twenty times as many schedules.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prolong.buffer.core.dispatch import Dispatch
from prolong.buffer.core.run_state import RunState
from prolong.buffer.tickets import handovers
from prolong.buffer.tickets.handovers import Handovers, Waiting
from prolong.buffer.tickets.leases import Lease, Leases
from prolong.common.types import Ticket

from tests.simulator.audit import Violation
from tests.simulator.campaign import run
from tests.simulator.plan import Plan
from tests.simulator.world import World

SOAK = bool(os.environ.get("PROLONG_SOAK"))
SCHEDULES = 1_600 if SOAK else 60
ENOUGH = 120  # schedules, of which at least one must show a bug

Patch = pytest.MonkeyPatch


@pytest.mark.timeout(1800 if SOAK else 600)
def test_no_handover_breaks_the_bound_the_ledger_the_journal_or_the_run() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        world = run(Plan.preempted(seed))
        happened.update({name: count for name, count in world.core.run.counters.total.items() if count})
        happened["gone on with by another"] += world.judge.num_gone_on
        happened["buffer restarted"] += world.buffer_crashes
        happened["forked"] += world.forks
    print(happened)
    assert happened["gone on with by another"] >= 2 * SCHEDULES
    for what in (
        "buffer/saved_tokens",
        "buffer/lost_tokens",
        "buffer/lost_handovers",
        "buffer/duplicates",
        "buffer/lost_actors",
        "buffer/dead_generation",
        "buffer restarted",
        "forked",
    ):
        assert happened[what] >= 3, f"{what}: {happened[what]} times, the test shows nothing about it"


def an_older_actor_goes_on(patch: Patch) -> None:
    patch.setattr(handovers, "needed_version", lambda ticket: ticket.version)


def tokens_are_forgotten(patch: Patch) -> None:
    add_well = Handovers.add

    def add(self: Handovers, ticket: Ticket, now: float, until_s: float) -> None:
        add_well(self, msgspec.structs.replace(ticket, started=ticket.started[1:]), now, until_s)

    patch.setattr(Handovers, "add", add)


def waiting_tickets_are_not_recorded(patch: Patch) -> None:
    patch.setattr(Handovers, "restore", lambda self, tickets, now: None)


def a_lease_goes_on_beside_the_handover(patch: Patch) -> None:
    add_well, leases = Handovers.add, {}
    end_well = Leases.end

    def end(self: Leases, ordinal: int) -> Lease:
        leases[ordinal] = self
        return end_well(self, ordinal)

    def add(self: Handovers, ticket: Ticket, now: float, until_s: float) -> None:
        add_well(self, ticket, now, until_s)
        leases[ticket.ordinal].grant(ticket, "actor-0", now)

    patch.setattr(Leases, "end", end)
    patch.setattr(Handovers, "add", add)


def nobody_waits_in_vain(patch: Patch) -> None:
    """A ticket that nobody goes on with is never given up."""
    fail_well = Dispatch._fail_waiting

    def fail(self: Dispatch, waiting: Waiting) -> None:
        if self._run.store.counters.total["buffer/handed_over"] == 0:
            fail_well(self, waiting)

    patch.setattr(Dispatch, "_fail_waiting", fail)
    patch.setattr(Handovers, "first_for", lambda self, version: None)


def lost_tokens_are_not_counted(patch: Patch) -> None:
    def count_lost(self: RunState, tickets: Any) -> None:
        pass

    patch.setattr(RunState, "count_lost", count_lost)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (an_older_actor_goes_on, r"needs version \d+, actor-\d holds"),
    (tokens_are_forgotten, "issued twice|are accounted for"),
    (waiting_tickets_are_not_recorded, "a restarted buffer differs.*handed over"),
    (a_lease_goes_on_beside_the_handover, "issued twice|are leased and wait"),
    (nobody_waits_in_vain, "stuck"),
    (lost_tokens_are_not_counted, "are accounted for"),
]


# where the usual schedules hardly show it
SCHEDULES_OF: dict[Callable[[Patch], None], Callable[[int], Plan]] = {an_older_actor_goes_on: Plan.outrun}


@pytest.mark.parametrize(("plant", "symptom"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_of_a_handover_is_caught(plant: Callable[[Patch], None], symptom: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=symptom):
        run_all(SCHEDULES_OF.get(plant, Plan.preempted))


def run_all(draw: Callable[[int], Plan]) -> None:
    for plan in map(draw, range(ENOUGH)):
        World(plan).run()


def test_where_one_actor_has_versions_long_before_the_other_all_holds() -> None:
    num_gone_on = sum(run(Plan.outrun(seed)).judge.num_gone_on for seed in range(20))
    assert num_gone_on > 20
