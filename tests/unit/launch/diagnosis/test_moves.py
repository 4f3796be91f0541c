"""Predicted gains: the side that is slow gains when it is doubled, and a run that cannot be simulated says why."""

from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, save_config
from prolong.common.config.sections import Config
from prolong.common.metrics import MetricsWriter
from prolong.launch.diagnosis.diagnosis import Improvement
from prolong.launch.diagnosis.moves import MAX_STEPS, newest_part, other_processes, predict_moves, within_reach
from prolong.launch.plan.recorded import RecordedRun
from prolong.launch.plan.refine import simulate_run
from prolong.launch.plan.simulation.cluster import (
    Cluster,
    LearnerDevice,
    LengthClass,
    PoolDevice,
    VerifierDevice,
    WeightsDevice,
)

from tests.support.recorded_steps import planned_config, recorded_step

DEVICE = PoolDevice(capacity=16, step_base_s=0.02, step_per_rollout_s=1e-4)
FAST = LearnerDevice(base_s=0.02)


def write_run(folder: Path, cluster: Cluster, cfg: Config) -> Path:
    """The records of a run as it is simulated on known devices."""
    run = RecordedRun(RunPaths(folder), cfg, [{"step": step} for step in range(1, 13)], [], 10)
    result = simulate_run(cluster, run)
    device, pool = cluster.pools["actors"], result.pools["actors"]
    folder.mkdir()
    save_config(cfg, folder / "config.yaml")
    with MetricsWriter(folder, tensorboard=False) as writer:
        before_s = 0.0
        for number, step in enumerate(result.history, start=1):
            ended_s = step.began_s + step.step_s
            passed_s = (ended_s - before_s) * pool.actors
            busy_s = pool.busy * passed_s
            steps = busy_s / device.step_s(round(pool.running))
            rollouts = cfg.buffer.batch_groups * cfg.sampling.n
            numbers = recorded_step(number, cfg.sampling.n, 60.0) | {
                "wall_s": ended_s,
                "learner/step_s": ended_s - before_s,
                "learner/wait_s": step.waited_s,
                "learner/compute_s": step.step_s,
                "learner/tokens": step.tokens,
                "buffer/staleness_mean": step.staleness,
                "buffer/filtered": 0.0,
                "rollout/count": rollouts,
                "actor/num_actors": pool.actors,
                "actor/busy_s": busy_s,
                "actor/engine_steps": steps,
                "actor/engine_running": steps * pool.running,
                "actor/generated_rollouts": rollouts,
                "actor/generated_tokens": step.tokens,
                "actor/verify_s": cluster.verifiers.latency_s * rollouts,
                "actor/verifiers/verdicts": rollouts,
                "actor/weights_s": 0.0,
                "weights/publish_s": cluster.weights.publish_s,
            }
            before_s = ended_s
            writer.write(numbers.pop("step"), numbers)
    return folder


def cluster_of(**parts: object) -> Cluster:
    known = {
        "pools": {"actors": DEVICE},
        "learner": FAST,
        "lengths": [LengthClass(mean=20, spread=0.2, prompt_tokens=10)],
        "verifiers": VerifierDevice(latency_s=1e-4, workers=1),
        "weights": WeightsDevice(publish_s=0.01),
    }
    return Cluster(**(known | parts))  # pyright: ignore[reportArgumentType]


def settings(eta: int = 2) -> Config:
    cfg = planned_config(eta=eta, n=4)
    cfg.buffer.dynamic_sampling = False
    cfg.actor.capacity = 16
    return cfg


@pytest.mark.parametrize(
    ("part", "cluster", "eta", "gain"),
    [
        ("actors", cluster_of(), 2, 2.0),
        ("learner", cluster_of(learner=LearnerDevice(base_s=4.0)), 2, 2.0),
        ("verifiers", cluster_of(verifiers=VerifierDevice(latency_s=0.1, workers=1)), 2, 2.0),
        ("weights", cluster_of(weights=WeightsDevice(publish_s=6.0)), 0, 1.7),
    ],
)
def test_twice_of_what_is_slow_gains_most(tmp_path: Path, part: str, cluster: Cluster, eta: int, gain: float) -> None:
    found = predict_moves(write_run(tmp_path / "run", cluster, settings(eta)), 0.0)
    assert found.why_none == ""
    best = next(move for move in found.moves if move.part == part)
    assert best.gain == pytest.approx(gain, rel=0.15)
    # of an actor that has more verifiers, there may be more actors too; of slow weights, more versions may be under way
    rivals = {"verifiers": {"actors"}, "weights": {"staleness"}}.get(part, set())
    assert all(move.gain <= 1.05 * best.gain for move in found.moves if move.part not in {part} | rivals)
    assert list(found.moves) == sorted(found.moves, key=lambda move: -move.gain)
    assert found.simulated_part == part
    assert set(found.roofs) >= {"actors", "learner", "staleness"}


def test_a_larger_eta_is_proposed_where_both_sides_take_turns(tmp_path: Path) -> None:
    cluster = cluster_of(
        learner=LearnerDevice(base_s=1.0),
        pools={"actors": PoolDevice(capacity=64, step_base_s=0.02)},
        # as a plan assumes where no journal has the lengths
        lengths=[LengthClass(mean=20, spread=0.5, prompt_tokens=10)],
    )
    cfg = settings(eta=0)
    cfg.actor.capacity = 64
    found = predict_moves(write_run(tmp_path / "run", cluster, cfg), 0.0)
    move = next(move for move in found.moves if move.part == "staleness")
    # the longest of 32 rollouts takes as long as a step
    assert move.settings[0].startswith("buffer.eta=")
    assert move.gain == pytest.approx(2.0, rel=0.15)


def test_no_move_of_others_gains_more_than_all_that_the_learner_waits() -> None:
    found = [
        Improvement(part=part, words="", settings=(), gain=gain, steps_per_s=gain, staleness_mean=0.0, binds_after="learner")
        for part, gain in (("staleness", 3.0), ("learner", 1.6), ("weights", 1.1))
    ]
    reached = within_reach(found, 0.8)
    assert [(move.part, move.gain, move.steps_per_s) for move in reached] == [
        ("learner", 1.6, 1.6),
        ("staleness", 1.25, 1.25),
        ("weights", 1.1, 1.1),
    ]
    assert within_reach(found, 0.0) == tuple(found)


def test_others_on_the_machine_are_told_from_the_cores_that_the_run_got() -> None:
    # of two cores, learner and one actor got a fifth of a core each: eight others want one
    record = {"step": 1, "learner/compute_s": 6.0, "actor/busy_s": 4.0, "learner/cpu_s": 1.2, "actor/cpu_s": 0.8}
    assert other_processes([record | {"actor/num_actors": 1.0}], 2.0) == pytest.approx(8.0)
    alone = record | {"learner/cpu_s": 5.8, "actor/cpu_s": 4.0, "actor/num_actors": 1.0}
    assert other_processes([alone], 2.0) == 0.0
    assert other_processes([{"step": 1}], 2.0) == 0.0


def test_a_run_that_is_too_short_to_simulate_says_so(tmp_path: Path) -> None:
    save_config(settings(), tmp_path / "config.yaml")
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"learner/step_s": 1.0})
    found = predict_moves(tmp_path, 0.0)
    assert found.moves == ()
    assert "has 1 steps: expected at least 11" in found.why_none


def test_the_newest_steps_and_the_actors_that_were_there_stand_for_the_run() -> None:
    records = [{"step": step, "actor/num_actors": 1.0 if step < 500 else 3.0} for step in range(1, 1001)]
    part = newest_part(RecordedRun(RunPaths(Path("run")), planned_config(actors=1), records, [], 10))
    assert [record["step"] for record in part.records] == list(range(1001 - MAX_STEPS, 1001))
    assert part.cfg.launch.actors == 3
