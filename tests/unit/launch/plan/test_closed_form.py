"""The closed form against sums that a reader can redo, and as a bound on what the simulation finds."""

from dataclasses import replace

import pytest
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from prolong.launch.plan.closed_form import StepWork, roofs, step_work
from prolong.launch.plan.simulation.cluster import (
    Cluster,
    HostDevice,
    LearnerDevice,
    LengthClass,
    PoolDevice,
    VerifierDevice,
    WeightsDevice,
)
from prolong.launch.plan.simulation.simulate import simulate


def config(eta: int = 2, max_filtered: float = 4.0) -> Config:
    return Config(
        model=ModelConfig(path="none", max_context=8192),
        sampling=SamplingConfig(n=8, max_tokens=4096),
        buffer=BufferConfig(batch_groups=16, eta=eta, max_filtered=max_filtered),
    )


ONE = Cluster(
    pools={"one": PoolDevice(count=2, capacity=64, step_base_s=0.01, step_per_rollout_s=1e-4)},
    learner=LearnerDevice(base_s=0.5, per_token_s=1e-5),
    lengths=[LengthClass(mean=100, spread=0.0, prompt_tokens=20)],
)


def test_roofs_are_sums_that_can_be_redone() -> None:
    found = roofs(ONE, config(), step_work(ONE, config(), 20))
    # two actors make 64 tokens in a step of 16.4 ms; 16 groups of 8 rollouts of 100 tokens
    assert found.actors == pytest.approx(2 * 64 / 0.0164 / (16 * 8 * 100))
    assert found.learner == pytest.approx(1 / (0.5 + 1e-5 * 16 * 8 * 120))
    assert found.verifiers == found.weights == found.host == float("inf")
    assert found.binds == "actors"


def test_the_roof_of_staleness_is_that_of_groups_and_steps_one_after_the_other() -> None:
    at_once = replace(ONE, pools={"one": replace(ONE.pools["one"], step_per_rollout_s=0.0)})
    learner_s = 0.5 + 1e-5 * 16 * 8 * 120
    for eta in (0, 1, 4):
        found = roofs(at_once, config(eta), step_work(at_once, config(eta), 20))
        assert found.staleness == pytest.approx((eta + 1) / (100 * 0.01 + learner_s))


def test_dropped_groups_are_generated_too_up_to_the_limit() -> None:
    dropping = replace(ONE, lengths=[replace(ONE.lengths[0], no_signal=0.5)])
    assert step_work(dropping, config(), 20).groups == 32
    assert step_work(dropping, config(max_filtered=0.25), 20).groups == 20


def test_other_roofs() -> None:
    cluster = replace(
        ONE,
        verifiers=VerifierDevice(latency_s=2.0, workers=4),
        weights=WeightsDevice(publish_s=3.0, pause_s=0.2),
        host=HostDevice(cores=2),
    )
    work = StepWork(groups=16, waves=1, rollouts=8, tokens=100, longest=100, prompt_tokens=20)
    found = roofs(cluster, config(), work)
    assert found.verifiers == pytest.approx(2 * 4 / (2.0 * 16 * 8))
    assert found.weights == pytest.approx(1.0), "3 s within eta + 1 = 3 steps"
    actor_s = 16 * 8 * 100 * 0.0164 / 64
    assert found.host == pytest.approx(2 / (actor_s + 0.5 + 1e-5 * 16 * 8 * 120))


def test_actors_with_a_machine_of_their_own_leave_the_host_to_the_learner() -> None:
    own = replace(ONE, pools={"one": replace(ONE.pools["one"], cores=0.0)}, host=HostDevice(cores=2))
    work = step_work(own, config(), 20)
    assert roofs(own, config(), work).host == pytest.approx(1 / (0.5 + 1e-5 * 16 * 8 * 120))
    nobody = replace(own, learner=LearnerDevice(base_s=0.5, cores=0.0))
    assert roofs(nobody, config(), work).host == float("inf")


def test_a_pool_without_an_actor_has_no_part_in_any_roof() -> None:
    cluster = replace(ONE, host=HostDevice(cores=2), weights=WeightsDevice(pause_s=0.1))
    fast = PoolDevice(count=0, step_base_s=1e-6)
    work = step_work(cluster, config(), 20)
    assert roofs(replace(cluster, pools=cluster.pools | {"none": fast}), config(), work) == roofs(cluster, config(), work)


def test_an_eta_that_adapts_is_bound_at_its_largest() -> None:
    adapts = config(eta=0)
    adapts.buffer.adaptive = {"min": 0, "max": 4}
    work = step_work(ONE, adapts, 20)
    assert roofs(ONE, adapts, work) == roofs(ONE, config(eta=4), work)


@pytest.mark.parametrize("eta", [0, 1, 3])
@pytest.mark.parametrize("learner_s", [0.2, 3.0])
def test_no_simulation_is_faster_than_the_bound(eta: int, learner_s: float) -> None:
    cluster = replace(
        ONE,
        lengths=[LengthClass(mean=100, spread=0.6, no_signal=0.3)],
        learner=LearnerDevice(base_s=learner_s),
        weights=WeightsDevice(publish_s=0.1, pause_s=0.05),
    )
    bound = roofs(cluster, config(eta), step_work(cluster, config(eta), 30)).bound
    found = simulate(cluster, config(eta), steps=30).steps_per_s
    # means over 400 groups are not those of this run
    assert 0.5 * bound <= found <= 1.05 * bound
