"""The shipped buffer under an eta that moves, over random schedules with faults: the bound of every ticket holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from prolong.buffer.core.eta_control import EtaControl
from prolong.buffer.journal.records import EtaRecord, EtaState
from prolong.buffer.tickets.adaptive import initial_state
from prolong.buffer.tickets.staleness import StalenessContract
from prolong.common.config.sections import Straggler

from tests.simulator.audit import Violation
from tests.simulator.campaign import run
from tests.simulator.plan import Plan
from tests.simulator.world import World

SCHEDULES = 60

Patch = pytest.MonkeyPatch


def test_no_schedule_breaks_the_bound_of_a_ticket_and_every_decision_is_made_again() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        world = run(Plan.adapting(seed))
        happened["moved"] += world.judge.audit.num_changes > 0
        happened["tickets of several etas"] += len(world.judge.etas) > 1
        happened["moved, and the buffer restarted"] += world.judge.audit.num_changes > 0 and world.buffer_crashes > 0
        happened["moved, and steps were repeated"] += world.judge.audit.num_changes > 0 and world.judge.num_served_again > 0
        happened["moved, and a generation began"] += world.judge.audit.num_changes > 0 and world.forks > 0
        happened["eta 0 among them"] += 0 in world.judge.etas
        happened["evicted or masked"] += world.plan.straggler is not Straggler.wait
    for what, count in happened.items():
        assert count >= 3, f"{what}: {count} of {SCHEDULES} schedules"


def eta_as_configured_after_a_restart(patch: Patch) -> None:
    restore_well = EtaControl.restore

    def restore(self: EtaControl, state: EtaState | None, version: int) -> None:
        restore_well(self, None, version)

    patch.setattr(EtaControl, "restore", restore)


def repeated_steps_decided_again(patch: Patch) -> None:
    hear_well = EtaControl.hear

    def hear(self: EtaControl, version: int, *args: Any) -> EtaRecord | None:
        if version <= self.state.version:
            self.state = initial_state(self.state.eta, version - 1)
        return hear_well(self, version, *args)

    patch.setattr(EtaControl, "hear", hear)


def deadlines_that_move_with_eta(patch: Patch) -> None:
    store_well = StalenessContract.store

    def store(self: StalenessContract, ordinal: int, version: int) -> None:
        self._etas[ordinal] = self.eta
        store_well(self, ordinal, version)

    patch.setattr(StalenessContract, "store", store)


def a_smaller_eta_that_does_not_drain(patch: Patch) -> None:
    admits_well = StalenessContract._admits_under

    def admits(self: StalenessContract, eta: int, version: int, learner_version: int, untrained: int) -> bool:
        return admits_well(self, eta, version, learner_version, min(untrained, (eta + 1) * self.batch - 1))

    patch.setattr(StalenessContract, "_admits_under", admits)


def decisions_not_recorded(patch: Patch) -> None:
    patch.setattr("prolong.buffer.journal.journal.Journal.log_eta", lambda self, record: None)


def eta_above_its_bounds(patch: Patch) -> None:
    move_well = StalenessContract.move

    def move(self: StalenessContract, eta: int) -> None:
        move_well(self, eta)
        self.eta = eta + (eta == self.maximum)

    patch.setattr(StalenessContract, "move", move)


def a_ticket_forgets_its_eta_over_a_restart(patch: Patch) -> None:
    issue_well = StalenessContract.issue
    patch.setattr(StalenessContract, "issue", lambda self, ordinal, version, eta=None: issue_well(self, ordinal, version))


BUGS = {
    eta_as_configured_after_a_restart: "a restarted buffer differs",
    repeated_steps_decided_again: "decided a second time|the decision about eta",
    deadlines_that_move_with_eta: "stuck|due in the next|its ticket had eta|stopped itself|a restarted buffer differs",
    a_smaller_eta_that_does_not_drain: "admits fewer",
    decisions_not_recorded: "the decision about eta",
    eta_above_its_bounds: "was issued under eta|the buffer stopped itself",
    a_ticket_forgets_its_eta_over_a_restart: "a restarted buffer differs",
}


@pytest.mark.parametrize(("plant", "symptom"), BUGS.items(), ids=[plant.__name__ for plant in BUGS])
def test_a_planted_bug_is_caught(plant: Callable[[Patch], None], symptom: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=symptom):
        run_all()


def run_all() -> None:
    for plan in map(Plan.adapting, range(400)):
        World(plan).run()
