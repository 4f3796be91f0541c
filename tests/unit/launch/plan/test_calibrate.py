"""Devices fitted to records that were made of known ones, and the number of cores that only a simulation finds."""

from dataclasses import replace
from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, save_config
from prolong.common.config.sections import Config
from prolong.common.errors import UserError
from prolong.common.metrics import MetricsWriter
from prolong.launch.plan.calibrate import POOL, calibrate
from prolong.launch.plan.recorded import RecordedRun, read_recorded
from prolong.launch.plan.refine import fit_of, refine, simulate_run
from prolong.launch.plan.simulation.cluster import Cluster, HostDevice, LearnerDevice, LengthClass, PoolDevice, WeightsDevice
from prolong.launch.recipes import compose

from tests.support.recorded_steps import (
    BASE_S,
    LEARNER_S,
    PER_ROLLOUT_S,
    PER_TOKEN_S,
    PROMPT,
    RATES,
    planned_config,
    recorded_step,
)


def recorded(n: int, load: float, cfg: Config | None = None) -> RecordedRun:
    records = [recorded_step(step, n, load) for step in range(1, 12)]
    return RecordedRun(RunPaths(Path(f"run-n{n}")), cfg or planned_config(n=n), records, [10, 20, 30] * 50, PROMPT)


def test_devices_are_those_that_made_the_records() -> None:
    found = calibrate([recorded(8, 60.0), recorded(4, 20.0)])
    actor = found.pools[POOL]
    assert actor.step_base_s == pytest.approx(BASE_S, rel=0.04)
    assert actor.step_per_rollout_s == pytest.approx(PER_ROLLOUT_S, rel=0.04)
    assert found.learner.base_s == pytest.approx(LEARNER_S, rel=0.04)
    assert found.learner.per_token_s == pytest.approx(PER_TOKEN_S, rel=0.04)
    assert found.weights.pause_s == pytest.approx(0.03)
    assert found.weights.publish_s == pytest.approx(0.05)
    assert found.verifiers.latency_s == pytest.approx(0.01)
    assert found.lengths[0].prompt_tokens == PROMPT
    assert sorted(set(found.lengths[0].samples)) == [10, 20, 30]


def test_one_load_does_not_tell_what_a_rollout_costs_and_noise_does_not_decide_it() -> None:
    for wiggle in (0.98, 1.02):
        run = recorded(8, 60.0)
        for record in run.records[5:]:
            # a little more in flight, and a little faster or slower
            record["actor/engine_running"] *= 1.01
            record["actor/busy_s"] *= wiggle
        actor = calibrate([run]).pools[POOL]
        assert actor.step_s(120) / actor.step_s(60) == pytest.approx(1.3, abs=0.06)


def test_a_cluster_has_as_many_verdicts_at_once_as_the_run_had_workers() -> None:
    cfg = planned_config()
    cfg.verifiers.workers = 3
    assert calibrate([recorded(8, 60.0, cfg)]).verifiers.workers == 3
    # others judge as well, and nobody knows how many at once
    cfg.verifiers.hosts = ["tcp://10.0.0.2:5720"]
    assert calibrate([recorded(8, 60.0, cfg)]).verifiers.workers == 0


def test_pass_rates_are_those_behind_the_dropped_groups() -> None:
    learned = calibrate([recorded(8, 60.0)]).lengths[0].learned
    assert learned[0].version == 0
    for each in learned:
        assert each.pass_rate == pytest.approx(RATES.mean, abs=0.01)
        assert each.correlation == pytest.approx(RATES.correlation, abs=0.02)
        assert each.scale == pytest.approx(1.0, rel=0.01)


def test_on_shared_cores_work_is_split_between_an_engine_and_its_helpers() -> None:
    found = calibrate([recorded(8, 60.0)], cores=2).pools[POOL]
    assert found.all_cores == pytest.approx(1.0)
    assert found.helper_cores == pytest.approx(0.2)


def simulated_record(true: Cluster, cfg: Config, slower: float = 1.0) -> RecordedRun:
    """A run of these devices, whose steps are all `slower` by a factor."""
    run = recorded(cfg.sampling.n, 30.0, cfg)
    for record, step in zip(run.records, simulate_run(true, run).history, strict=True):
        record |= {"wall_s": (step.began_s + step.step_s) * slower, "buffer/staleness_mean": step.staleness}
    return run


@pytest.mark.parametrize("slower", [0.985, 1.015])
def test_a_side_that_nobody_waits_for_keeps_its_speed(slower: float) -> None:
    true = Cluster(
        pools={POOL: PoolDevice(count=2, capacity=64, step_base_s=BASE_S, step_per_rollout_s=PER_ROLLOUT_S)},
        learner=LearnerDevice(base_s=LEARNER_S, per_token_s=PER_TOKEN_S),
        lengths=[LengthClass(mean=20, prompt_tokens=PROMPT)],
        weights=WeightsDevice(publish_s=5.0),
    )
    found = refine(true, [simulated_record(true, planned_config(eta=1, actors=2, n=4), slower)])
    assert found.pools[POOL].step_base_s == pytest.approx(BASE_S, rel=0.05)
    assert found.learner.base_s == pytest.approx(LEARNER_S, rel=0.05)


@pytest.mark.parametrize(("cores", "contention"), [(1.25, 0.0), (1.1, 0.6)])
def test_what_no_record_shows_of_a_shared_host_is_found_by_simulation(cores: float, contention: float) -> None:
    true = Cluster(
        pools={
            POOL: PoolDevice(
                capacity=64,
                step_base_s=BASE_S / cores,
                step_per_rollout_s=PER_ROLLOUT_S / cores,
                cores=cores,
            )
        },
        learner=LearnerDevice(base_s=LEARNER_S, per_token_s=PER_TOKEN_S),
        lengths=[LengthClass(mean=20, prompt_tokens=PROMPT)],
        host=HostDevice(cores=2, contention=contention),
    )
    cfgs = planned_config(eta=0, n=4), planned_config(eta=2, n=4), planned_config(eta=2, actors=2, n=4)
    runs = [simulated_record(true, cfg) for cfg in cfgs]
    wrong = PoolDevice(capacity=64, step_base_s=BASE_S, step_per_rollout_s=PER_ROLLOUT_S, cores=1.0)
    found = refine(replace(true, pools={POOL: wrong}, host=HostDevice(cores=2)), runs)
    assert found.pools[POOL].cores == pytest.approx(cores, rel=0.1)
    # the two make up for one another in part: without contention the cores would be 2
    assert found.host.contention == pytest.approx(contention, abs=0.25)
    assert all(abs(fit_of(found, run).error) < 0.1 for run in runs)


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"learner/step_s": 1.0})
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="has 1 steps: expected at least 11"):
        read_recorded(str(tmp_path))
    with pytest.raises(UserError, match="expected a run's folder"):
        read_recorded("no-such-run")


@pytest.mark.parametrize(("name", "steps"), [("wall_s", 1), ("learner/compute_s", 11), ("actor/engine_steps", 11)])
def test_a_run_whose_speeds_cannot_be_known_is_refused(tmp_path: Path, name: str, steps: int) -> None:
    # as one of supervised learning, or of an earlier version
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 12):
            numbers = recorded_step(step, 8, 60.0)
            if step <= steps:
                del numbers[name]
            writer.write(numbers.pop("step"), numbers)
    save_config(compose("demo", []), tmp_path / "config.yaml")
    with pytest.raises(UserError, match=f"lacks {name}: expected a run"):
        read_recorded(str(tmp_path))


def test_a_run_whose_clock_stands_still_is_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 12):
            writer.write(step, recorded_step(step, 8, 60.0) | {"wall_s": 5.0 if step >= 5 else step})
    save_config(compose("demo", []), tmp_path / "config.yaml")
    with pytest.raises(UserError, match="wall_s is not larger at step 6"):
        read_recorded(str(tmp_path))


def test_actors_whose_engines_took_no_cpu_shared_no_cores() -> None:
    run = recorded(8, 60.0)
    for record in run.records:
        record["actor/helper_cpu_s"] = record["actor/cpu_s"]
    with pytest.raises(UserError, match="--cores 0"):
        calibrate([run], cores=2)
    assert calibrate([run]).pools[POOL].cores == 1.0


def test_completions_without_a_token_count_as_one() -> None:
    run = recorded(8, 60.0)
    run.lengths.clear()
    for record in run.records:
        record["rollout/tokens_mean"] = 0.0
    assert calibrate([run]).lengths[0].mean == 1.0


def test_start_and_end_of_a_run_are_not_measured() -> None:
    run = recorded(8, 60.0, planned_config(eta=2))
    # eleven steps of a second each: two at the start and eta at the end are left out
    assert [record["step"] for record in run.measured] == [3, 4, 5, 6, 7, 8, 9]
    run.records[0]["wall_s"] = run.records[-1]["wall_s"] = 100.0
    assert run.steps_per_s == pytest.approx(1.0)
    # of a short run with a large eta something is left
    assert len(recorded(8, 60.0, planned_config(eta=8)).measured) == 5


def test_a_run_with_pools_is_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(1, 12):
            writer.write(step, {"learner/step_s": 1.0})
    cfg = compose("demo", ["pools={fast: {count: 1}, slow: {count: 1}}"])
    save_config(cfg, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="pools fast, slow"):
        read_recorded(str(tmp_path))
