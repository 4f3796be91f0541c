"""Dispatch by forecast against an even share of tickets, on simulated actors of which half are four times slower."""

from __future__ import annotations

import pytest
from prolong.common.config.choices import DispatchRule
from prolong.common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from prolong.launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice
from prolong.launch.plan.simulation.simulate import simulate

ACTORS = 8  # `bench/unequal_actors.py` has a thousand
GROUPS = 8  # that an actor works on at once
TASKS = [LengthClass(name=f"a/t{mean}", mean=mean, spread=0.1) for mean in (250, 500, 1000)]


def share_of_roof(
    rule: DispatchRule, lengths: list[LengthClass], *, places: float, eta: int, per_rollout: float = 0.0
) -> float:
    """Of all actors. `places`: tickets that admission allows, divided by the groups that all actors work on at once."""
    batch = int(ACTORS * GROUPS * places / (eta + 1))
    cfg = Config(
        model=ModelConfig(path="none", max_context=2000),
        sampling=SamplingConfig(n=4, max_tokens=1500),
        buffer=BufferConfig(batch_groups=batch, eta=eta, dispatch=rule, heartbeat_s=1.0, silence_s=4.0, lease_s=36_000.0),
    )

    def pool(slower: float) -> PoolDevice:
        base_s = 0.008 if per_rollout else 0.02
        return PoolDevice(
            count=ACTORS // 2,
            # some rollouts of a group end before its last
            capacity=5 * GROUPS,
            max_running=4 * GROUPS,
            step_base_s=base_s * slower,
            step_per_rollout_s=per_rollout * slower,
        )

    cluster = Cluster(pools={"fast": pool(1.0), "slow": pool(4.0)}, learner=LearnerDevice(base_s=0.1), lengths=lengths)
    found = simulate(cluster, cfg, steps=5 * (eta + 1), seed=0)
    assert max(found.staleness) <= eta, "whatever was foretold"
    return found.share_of_roof


def test_slow_actors_get_fewer_rollouts_where_steps_take_longer_with_them() -> None:
    lengths = [LengthClass(mean=500, spread=0.02)]
    forecast, even = (share_of_roof(rule, lengths, places=2, eta=3, per_rollout=0.0006) for rule in DispatchRule)
    assert forecast >= 0.9
    assert even <= 0.78


@pytest.mark.parametrize(("places", "eta", "gain"), [(1.5, 1, 2.0), (3.0, 3, 1.4)])
def test_long_tasks_go_to_fast_actors(places: float, eta: int, gain: float) -> None:
    forecast, even = (share_of_roof(rule, TASKS, places=places, eta=eta) for rule in DispatchRule)
    assert forecast >= gain * even
