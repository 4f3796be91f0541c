"""Every side's seconds add up, whatever the records say; and the start, waits and late heartbeats land where they belong."""

import random

import pytest
from prolong.common.metrics import MetricsRecord
from prolong.launch.diagnosis.run_records import RunRecords
from prolong.launch.diagnosis.time_split import actors_side, learner_side, sides_of, verifiers_side, weights_side

from tests.support.recorded_steps import planned_config


def step(number: int, **metrics: float) -> MetricsRecord:
    """A step of ten seconds in which two actors sample all the time; names with __ for /."""
    plain = {"learner/step_s": 10.0, "learner/wait_s": 4.0, "learner/compute_s": 5.0, "learner/publish_s": 0.5}
    actors = {"actor/num_actors": 2.0, "actor/busy_s": 20.0, "actor/idle_s": 0.0, "actor/weights_s": 0.0}
    return {"step": number, **plain, **actors, **{name.replace("__", "/"): value for name, value in metrics.items()}}


def run_of(*records: MetricsRecord, summary: dict | None = None) -> RunRecords:
    return RunRecords(name="run", cfg=planned_config(), records=list(records), summary=summary or {})


def test_all_sides_of_any_records_add_up_to_the_wall_clock() -> None:
    rng = random.Random(0)
    names = ["wait_s", "compute_s", "reference_s", "forward_backward_s", "optimizer_s", "publish_s", "checkpoint_s"]
    for _ in range(200):
        records = [step(1)]
        for number in range(2, 8):
            of_actors = {f"actor__{name}": 30 * rng.random() for name in ("busy_s", "idle_s", "weights_s", "verifying_s")}
            of_actors["actor__verify_exposed_s"] = of_actors["actor__idle_s"] * rng.random()
            of_learner = {f"learner__{name}": 3 * rng.random() for name in names}
            held = {"buffer__held_s": 5 * rng.random(), "weights__publish_s": 30 * rng.random()}
            records.append(step(number, **of_actors, **of_learner, **held))
        for side in sides_of(run_of(*records)):
            assert sum(part.seconds for part in side.spent) == pytest.approx(side.total_s)
            assert all(part.seconds >= -1e-9 for part in side.spent)
            assert len({part.name for part in side.spent}) == len(side.spent)
            expected = 70.0 if side.name in ("learner", "weights") else 140.0
            assert side.total_s == pytest.approx(expected)


def test_the_first_wait_is_the_start_and_later_ones_have_a_cause() -> None:
    found = learner_side(run_of(step(1, learner__wait_s=9.0, learner__step_s=15.0), step(2, buffer__held_s=3.0), step(3)))
    assert found.seconds("start") == 9.0
    assert found.seconds("wait: staleness") == 3.0
    # the other seconds passed while the actors sampled
    assert found.seconds("wait: actors") == 5.0
    assert found.seconds("rest of the step") == 15.0
    assert found.share("publish") == pytest.approx(1.5 / found.total_s)
    assert found.seconds("no such part") == 0.0


def test_what_actors_did_before_the_learner_started_is_not_on_its_clock() -> None:
    # an actor that was there a minute earlier reports all of it with the first step
    side = actors_side(run_of(step(1, actor__busy_s=0.0, actor__idle_s=120.0), step(2)))
    assert side.total_s == 40.0
    assert side.processes == 2
    assert side.seconds("no ticket") == pytest.approx(20.0)
    assert side.seconds("sampling") == pytest.approx(20.0)


def test_verdicts_beside_sampling_cost_nobody_time() -> None:
    side = verifiers_side(run_of(step(1), step(2, actor__verifying_s=12.0, actor__verify_exposed_s=5.0)))
    assert (side.seconds("beside sampling"), side.seconds("alone"), side.seconds("other")) == (7.0, 5.0, 28.0)


def test_a_broadcast_that_lasts_for_several_steps_counts_once_and_pulls_are_of_every_actor() -> None:
    sent = [step(number, weights__publish_s=seconds) for number, seconds in enumerate((1.5, 1.5, 1.5, 2.0), start=1)]
    assert weights_side(run_of(*sent)).seconds("broadcast") == 3.5
    pulled = weights_side(run_of(step(1), step(2, actor__pull_s=3.0, actor__load_s=1.0)))
    assert (pulled.seconds("pulling"), pulled.seconds("loading"), pulled.total_s) == (3.0, 1.0, 40.0)


def test_each_actor_of_an_ended_run_has_a_side_of_its_own() -> None:
    absurd = {"busy_s": float("inf"), "idle_s": 1e308, "weights_s": None}
    split = {"actors": {"a-0": {"busy_s": 8.0, "idle_s": 1.0, "weights_s": 0.5}, "a-1": absurd}}
    *_, last, hostile = sides_of(run_of(step(1), summary={"time_split": split}))
    assert (hostile.name, hostile.total_s) == ("a-1", 0.0)
    assert last.name == "a-0"
    assert last.total_s == 9.5
    assert last.share("sampling") == pytest.approx(8 / 9.5)
    assert sides_of(run_of()) == ()
