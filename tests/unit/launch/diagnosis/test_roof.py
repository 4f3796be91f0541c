"""The part that binds, from records in which one part is made slow."""

from collections.abc import Mapping

import pytest
from prolong.common.metrics import MetricsRecord
from prolong.common.types import Group, Ticket, TicketKind
from prolong.launch.diagnosis.roof import binding_roof
from prolong.launch.diagnosis.run_records import RunRecords

from tests.support.recorded_steps import planned_config
from tests.unit.buffer.scene import SAMPLING, prompt, rollout

HEALTHY = {
    "learner/step_s": 1.0,
    "learner/wait_s": 0.6,
    "buffer/held_s": 0.0,
    "actor/num_actors": 1.0,
    "actor/busy_s": 0.95,
    "actor/idle_s": 0.05,
    "actor/weights_s": 0.0,
    "actor/verify_exposed_s": 0.0,
    "actor/verify_s": 0.1,
    "actor/engine_steps": 100.0,
    "actor/engine_running": 1000.0,
    "weights/publish_s": 0.01,
    "weights/lag_mean": 0.0,
}
STARVED: dict[str, dict[str, float]] = {
    "actors": {},
    "learner": {"learner/wait_s": 0.1},
    "staleness": {"buffer/held_s": 0.5, "actor/busy_s": 0.4, "actor/idle_s": 0.6, "actor/engine_steps": 40.0},
    # every second of the one worker is taken, and finished rollouts take up the room
    "verifiers": {"actor/verify_s": 0.97},
    "weights": {
        "buffer/held_s": 0.5,
        "weights/publish_s": 3.0,
        "actor/busy_s": 0.4,
        "actor/idle_s": 0.6,
        "weights/lag_mean": 1.0,
    },
}


def run_with(changes: Mapping[str, float], *, group_s: float = 0.5) -> RunRecords:
    records: list[MetricsRecord] = [{"step": number, **HEALTHY, **changes} for number in range(1, 21)]
    ticket = Ticket(
        ordinal=1, kind=TicketKind.train, prompt=prompt(), sampling=SAMPLING, seed=0, generation=1, version=0, lease_s=9.0
    )
    group = Group.for_ticket(ticket, [rollout(0, tokens=40), rollout(0, tokens=50)], actor="a", seconds=group_s)
    return RunRecords(name="run", cfg=planned_config(eta=1), records=records, groups=[group])


@pytest.mark.parametrize("cause", STARVED)
def test_the_part_that_was_made_slow_binds(cause: str) -> None:
    found = binding_roof(run_with(STARVED[cause]), 0.0)
    assert found is not None
    assert found.part == cause
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.words
    assert len(found.evidence) >= 4


def test_groups_that_wait_long_for_verdicts_blame_the_verifiers_even_where_eta_holds_work_back() -> None:
    # 50 tokens take half a second, a group takes three: five sixths of its round are verdicts
    found = binding_roof(run_with(STARVED["staleness"], group_s=3.0), 0.0)
    assert found is not None
    assert found.part == "verifiers"


def test_actors_without_tickets_blame_eta_in_records_that_do_not_say_what_was_held() -> None:
    found = binding_roof(run_with({"buffer/held_s": 0.0, "actor/busy_s": 0.3, "actor/idle_s": 0.7}), 0.0)
    assert found is not None
    assert found.part == "staleness"


def test_a_pause_for_new_weights_counts_for_the_weights() -> None:
    found = binding_roof(run_with({"actor/busy_s": 0.3, "actor/idle_s": 0.0, "actor/weights_s": 0.7}), 0.0)
    assert found is not None
    assert found.part == "weights"


def test_only_where_cores_are_shared_others_can_want_them() -> None:
    # a tenth of a core for each second of work
    run = run_with({"learner/compute_s": 1.0, "learner/cpu_s": 0.1, "actor/busy_s": 1.0, "actor/cpu_s": 0.1})
    shared, own = binding_roof(run, 2.0), binding_roof(run, 0.0)
    assert shared is not None
    assert own is not None
    assert any("others want the cores of this machine: learner and actors had 0.10" in said for said in shared.evidence)
    assert not any("others want" in said for said in own.evidence)


def test_before_the_first_step_nothing_binds() -> None:
    assert binding_roof(RunRecords(name="run", cfg=planned_config(), records=[]), 0.0) is None
