"""Cores that actors and learner share: max-min fairness, and what it costs a run."""

import math
from dataclasses import replace

import pytest
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from prolong.launch.plan.simulation.cluster import Cluster, HostDevice, Learned, LearnerDevice, LengthClass, PoolDevice
from prolong.launch.plan.simulation.simulate import simulate


@pytest.mark.parametrize(
    ("cores", "others", "wanted", "share"),
    [
        (2, 0, [(1.0, 1.0)], math.inf),
        # the learner gets all it wants, the actor the rest
        (2, 0, [(1.0, 1.0), (1.3, 1.0)], 1.0),
        (2, 0, [(1.0, 1.0), (1.3, 1.0), (1.3, 1.0)], 2 / 3),
        (2, 0, [(0.1, 1.0), (3.0, 1.0), (3.0, 1.0)], 0.95),
        # helpers that take half a core for each core of their actor
        (2, 0, [(1.0, 1.0), (1.0, 1.5)], 0.8),
        (2, 0, [(0.2, 1.0), (1.0, 1.5), (1.0, 1.5)], 0.6),
        (2, 2, [(0.5, 1.0), (1.3, 1.0)], 0.5),
        (2, 0.5, [(1.0, 1.0), (1.3, 1.0)], 0.8),
        (4, 1, [(3.0, 1.0)], 3.0),
    ],
)
def test_who_wants_less_than_its_share_leaves_the_rest(
    cores: float, others: float, wanted: list[tuple[float, float]], share: float
) -> None:
    assert HostDevice(cores=cores, others=others).share(wanted) == pytest.approx(share)


def test_processes_that_work_at_once_slow_one_another() -> None:
    host = HostDevice(cores=4, contention=0.25)
    assert host.speed(1.0, math.inf, busy=1.0) == 1.0, "alone"
    assert host.speed(1.0, math.inf, busy=3.0) == pytest.approx(1 / 1.5)
    assert host.speed(2.0, 1.0, busy=2.0) == pytest.approx(0.5 / 1.25), "and it gets half of what it wants"
    assert host.speed(0.0, 1.0, busy=2.0) == 1.0, "no device of this host"


def cluster(cores: float, count: int, *, helper_cores: float = 0.0, contention: float = 0.0) -> Cluster:
    return Cluster(
        pools={"one": PoolDevice(count=count, capacity=128 // count, step_base_s=0.01, helper_cores=helper_cores)},
        learner=LearnerDevice(base_s=1.0),
        lengths=[LengthClass(mean=100, spread=0.0)],
        host=HostDevice(cores=cores, contention=contention),
    )


CONFIG = Config(
    model=ModelConfig(path="none", max_context=8192),
    sampling=SamplingConfig(n=8, max_tokens=4096),
    buffer=BufferConfig(batch_groups=16, eta=2),
)


def test_actors_that_share_cores_with_the_learner_slow_it_down() -> None:
    # both sides take a second for a batch, and overlap
    assert simulate(cluster(2, 1), CONFIG, steps=20).period_s == pytest.approx(1.0, rel=0.02)
    assert simulate(cluster(1, 1), CONFIG, steps=20).period_s == pytest.approx(2.0, rel=0.1)
    # two actors of half the capacity are always busy: three processes on two cores
    assert simulate(cluster(2, 2), CONFIG, steps=20).period_s == pytest.approx(1.5, rel=0.1)


def test_the_helpers_of_an_actor_take_cores_from_the_learner_and_from_it() -> None:
    # two thirds of a core for the learner and for the engine, as much for its helper
    assert simulate(cluster(2, 1, helper_cores=1.0), CONFIG, steps=20).period_s == pytest.approx(1.5, rel=0.1)


def test_whoever_works_at_once_takes_longer_although_there_are_cores_for_all() -> None:
    # each has one core busy beside it
    assert simulate(cluster(2, 1, contention=0.4), CONFIG, steps=20).period_s == pytest.approx(1.4, rel=0.05)


def test_prompts_change_with_what_the_policy_has_learned() -> None:
    one = cluster(0, 1)
    learned = [Learned(version=0, pass_rate=0.5), Learned(version=10, scale=2.0, pass_rate=0.9, correlation=0.9)]
    found = simulate(replace(one, lengths=[replace(one.lengths[0], learned=learned)]), CONFIG, steps=20)
    assert [step.tokens for step in found.history[:9]] == [16 * 8 * 100] * 9
    assert found.history[-1].tokens == 16 * 8 * 200
    assert found.waste["filtered"] > 0.3
