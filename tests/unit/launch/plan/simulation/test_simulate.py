"""The simulation against closed forms, and its own promises."""

import pytest
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from prolong.launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice
from prolong.launch.plan.simulation.simulate import simulate


def config(eta: int, batch: int = 16, n: int = 8) -> Config:
    return Config(
        model=ModelConfig(path="none", max_context=8192),
        sampling=SamplingConfig(n=n, max_tokens=4096),
        buffer=BufferConfig(batch_groups=batch, eta=eta),
    )


def sleepers(group_s: float, train_s: float, capacity: int, n: int = 8) -> Cluster:
    """One actor whose groups take `group_s`, `capacity` groups at once, and a learner that takes `train_s`."""
    return Cluster(
        pools={"one": PoolDevice(capacity=capacity * n, step_base_s=group_s / 100)},
        learner=LearnerDevice(base_s=train_s),
        lengths=[LengthClass(mean=100, spread=0.0)],
    )


@pytest.mark.parametrize(
    ("eta", "group_s", "train_s", "capacity"),
    # bound by: the bound on staleness, the actor, the learner, half the batch at once
    [(0, 0.4, 0.3, 16), (1, 0.4, 0.3, 16), (2, 0.4, 0.3, 16), (2, 0.1, 0.3, 16), (1, 0.4, 0.3, 8)],
)
def test_the_period_is_that_of_the_closed_form(eta: int, group_s: float, train_s: float, capacity: int) -> None:
    found = simulate(sleepers(group_s, train_s, capacity), config(eta), steps=30)
    batches = -(-16 // capacity)
    bound = max(group_s * 16 / capacity, train_s, (group_s * (batches if eta == 0 else 1) + train_s) / (eta + 1))
    assert found.period_s == pytest.approx(bound, rel=0.03)
    assert found.period_s >= bound * 0.9999
    assert max(found.staleness) <= eta


def test_the_same_arguments_give_the_same_result() -> None:
    cluster = Cluster(
        pools={"a": PoolDevice(count=3, capacity=32, step_base_s=0.01, step_per_rollout_s=1e-4)},
        learner=LearnerDevice(base_s=0.5, per_token_s=1e-5),
        lengths=[LengthClass(mean=200, spread=0.8)],
    )
    first, again = (simulate(cluster, config(2), steps=10, seed=3) for _ in range(2))
    assert first == again
    assert simulate(cluster, config(2), steps=10, seed=4) != first
