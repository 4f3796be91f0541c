"""The shipped buffer over schedules in which actors pull weights: links of any speed show up as lag, never as a violation.

The judge of the simulator checks the staleness bound, the ledger and the journal at every event. Besides: no ticket names a
version that its actor does not hold, broadcasts leave pullers alone, and relays get no tickets. A run that does not end fails.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from prolong.buffer.core.pulls import Pullers
from prolong.buffer.core.weights_plane import WeightsPlane
from prolong.common.config.sections import Straggler
from prolong.common.messages import Hello, Role, UpdateWeights

from tests.simulator.audit import Violation
from tests.simulator.campaign import run, run_all
from tests.simulator.faults import Kind
from tests.simulator.plan import HARSHER, Phase, Plan
from tests.simulator.world import World

SCHEDULES = 120
ENOUGH = 60  # schedules, of which at least one must show a planted bug

Patch = pytest.MonkeyPatch


def two_links(slow_s: float, *, actors: int = 2, eta: int = 1) -> Plan:
    """A calm run of sixty steps: actor-0 has a fast link, the others need `slow_s` for the changes of one version."""
    return dataclasses.replace(
        Plan.draw(0),
        batch=4,
        eta=eta,
        steps=60,
        last=60,
        straggler=Straggler.wait,
        actors=actors,
        capacity=8,
        think_s=2.0,
        slower=1.0,
        heavy=0.0,
        hang=0.0,
        lag_s=0.1,
        train_s=1.0,
        returned=0.0,
        duplicate=0.0,
        bad_weights=0.0,
        zero_spread=0.0,
        heldout=0,
        stages=[Phase(steps=60, n=2, weights={"odd": 1.0, "even": 1.0, "rare": 0.0})],
        faults=[],
        all_pull=True,
        link_s={f"actor-{index}": 0.02 if index == 0 else slow_s for index in range(actors)},
    )


def shares(world: World) -> Counter[str]:
    """Tickets sent, by actor."""
    return Counter(to[0] for _, to in world.judge.sent.values())


@pytest.mark.slow
def test_slow_links_dying_relays_and_lost_offers_break_nothing_and_the_run_ends() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        world = run(Plan.pulled(seed))
        happened.update({name: min(count, 1) for name, count in (world.pulled + world.core.run.counters.total).items()})
        happened["lagged by more than eta"] += world.judge.max_lag > world.plan.eta
        happened["mixed with a broadcast"] += not world.plan.all_pull
        happened["forked"] += world.forks > 0
        happened["buffer restarted"] += world.buffer_crashes > 0
        happened["learner restarted"] += world.learner_restarts > 0
    for what in (
        "done",
        "failed",
        "broken",
        "stalled",
        "superseded",
        "went to the next source",
        "through a server",
        "buffer/pulls",
        "buffer/failed_pulls",
        "buffer/unknown_pulls",
        "buffer/cordoned",
        "buffer/lost_relays",
        "buffer/left_relays",
        "buffer/lost_leases",
        "lagged by more than eta",
        "mixed with a broadcast",
        "forked",
        "buffer restarted",
        "learner restarted",
    ):
        assert happened[what] >= 3, f"{what} happened in {happened[what]} of {SCHEDULES} schedules: they show nothing of it"


@pytest.mark.parametrize("kind", HARSHER)
def test_frames_as_no_connection_delivers_them_break_no_promise(kind: Kind) -> None:
    account = run_all((Plan.harsher(seed, kind, pulled=True) for seed in range(20)), may_be_stuck=True)
    assert account.struck[kind] >= 20
    assert len(account.stuck) <= 2


def test_a_fast_actor_works_on_while_a_slow_one_pulls() -> None:
    alone, both = World(two_links(0.0, actors=1)), World(two_links(8.0))
    alone.run()
    both.run()
    assert both.judge.max_lag > 10, "the slow one was far behind"
    assert both.now < 1.1 * alone.now, "and cost the others nothing"
    assert 0 < shares(both)["actor-1"] < shares(both)["actor-0"]
    for version, ordinals in both.judge.steps.items():
        for ordinal in ordinals:
            assert both.judge.sent[ordinal][0].version + both.plan.eta >= version


def test_the_share_of_a_slow_link_grows_with_what_the_contract_allows() -> None:
    strict, loose = World(two_links(0.5, eta=1)), World(two_links(0.5, eta=3))
    strict.run()
    loose.run()
    assert 0.2 < shares(strict)["actor-1"] / 240 < shares(loose)["actor-1"] / 240 < 0.5


@pytest.mark.parametrize("eta", [0, 1])
def test_where_all_links_are_slow_the_learner_waits_for_the_newest_weights_to_arrive(eta: int) -> None:
    plan = two_links(30.0, actors=3, eta=eta)
    world = World(dataclasses.replace(plan, link_s=dict.fromkeys(plan.link_s, 30.0)))
    world.run()
    assert world.judge.max_lag <= max(eta, 1)


def test_actors_of_one_relay_leave_the_learner_alone() -> None:
    plan = two_links(0.2, actors=4)
    world = World(dataclasses.replace(plan, relays=1, link_s=plan.link_s | {"relay-0": 0.1}))
    world.run()
    assert world.pulled["done"] - world.pulled["through a server"] <= plan.steps + 4, "the relay's own, and the first"
    assert world.pulled["went to the next source"] == 0


# --- bugs that must be noticed ----------------------------------------------------------------------------------------


def held_when_told(patch: Patch) -> None:
    """The version that an actor was told of counts, and not the one that it holds."""
    due_well = Pullers.due

    def due(self: Pullers, *args: Any) -> list[tuple[str, UpdateWeights]]:
        updates = due_well(self, *args)
        for name, update in updates:
            puller = self.find(name)
            assert puller is not None
            puller.acknowledge(update.generation, update.version)
        return updates

    patch.setattr(Pullers, "due", due)


def pullers_in_broadcasts(patch: Patch) -> None:
    join_well = WeightsPlane.join

    def join(self: WeightsPlane, hello: Hello) -> None:
        join_well(self, hello)
        if hello.role is Role.actor:
            self._membership.join(hello.name)

    patch.setattr(WeightsPlane, "join", join)


def failed_pulls_not_repeated(patch: Patch) -> None:
    patch.setattr("prolong.buffer.core.pulls.FIRST_PAUSE_S", 1e6)
    init_well = Pullers.__init__

    def init(self: Pullers, *, timeout_s: float, **settings: Any) -> None:
        init_well(self, timeout_s=1e6, **settings)

    patch.setattr(Pullers, "__init__", init)


BUGS = [
    (held_when_told, r"ticket \d+ says version \d+, actor-\d holds|stuck"),
    (pullers_in_broadcasts, "pullers are in a broadcast"),
    (failed_pulls_not_repeated, "stuck"),
]


@pytest.mark.parametrize(("plant", "symptom"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_caught(plant: Callable[[Patch], None], symptom: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation, match=symptom):
        run_all(dataclasses.replace(Plan.pulled(seed), max_events=20_000) for seed in range(ENOUGH))
