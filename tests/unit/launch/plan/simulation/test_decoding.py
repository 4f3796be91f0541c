import pytest
from prolong.launch.plan.simulation.cluster import PoolDevice
from prolong.launch.plan.simulation.decoding import DecodePace

DEVICES = [
    PoolDevice(step_base_s=0.02, step_per_rollout_s=1e-4),
    PoolDevice(step_base_s=0.02, step_per_kv_token_s=1e-6),
    # arithmetic bounds the first steps, reading of long contexts the later ones
    PoolDevice(step_base_s=0.001, step_per_kv_token_s=1e-6, compute_per_rollout_s=5e-4),
    PoolDevice(step_base_s=0.001, compute_per_rollout_s=5e-4),
]


def naive_seconds(device: PoolDevice, running: int, context: float, steps: int) -> float:
    """Step after step, each with the context in its middle."""
    return sum(device.step_s(running, context + running * (step + 0.5)) for step in range(steps))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [1, 50, 2000])
def test_the_time_of_many_steps_is_the_sum_of_each(device: PoolDevice, steps: int) -> None:
    pace = DecodePace.of(device, 16, 300.0)
    assert pace.seconds(steps) == pytest.approx(naive_seconds(device, 16, 300.0, steps), rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [0.5, 430.0, 900.0, 5000.0])
def test_steps_is_the_inverse_of_seconds(device: PoolDevice, steps: float) -> None:
    pace = DecodePace.of(device, 16, 300.0)
    assert pace.steps(pace.seconds(steps)) == pytest.approx(steps, rel=1e-9)
