"""The simulation against a real pipeline: a buffer process, its clients and sockets, and an actor and a learner that sleep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from prolong.bench.measure import seconds_per_step
from prolong.bench.sleepers import Devices, SleepingLearner, actor_in_a_thread
from prolong.common.config.sections import Config, SamplingConfig
from prolong.common.tokenizer import Tokenizer
from prolong.launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice
from prolong.launch.plan.simulation.simulate import simulate

from tests.support.buffer_process import BufferProcess, make_config

BATCH, TOKENS = 8, 32
DEVICES = Devices(capacity=8, group_s=0.4, train_s=0.3)


def simulated_period_s(cfg: Config, devices: Devices) -> float:
    cluster = Cluster(
        pools={"sleeper": PoolDevice(capacity=devices.capacity * cfg.sampling.n, step_base_s=devices.group_s / TOKENS)},
        learner=LearnerDevice(base_s=devices.train_s),
        lengths=[LengthClass(mean=TOKENS, spread=0.0)],
    )
    return simulate(cluster, cfg, steps=20).period_s


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0, 1])
def test_a_pipeline_that_sleeps_takes_the_time_that_the_simulation_says(tmp_path: Path, eta: int) -> None:
    cfg = make_config(tmp_path, steps=6, batch_groups=BATCH, eta=eta, silence_s=10.0, dynamic_sampling=False)
    cfg = dataclasses.replace(cfg, sampling=SamplingConfig(n=2, max_tokens=TOKENS))
    with BufferProcess(cfg) as buffer:
        cfg = dataclasses.replace(cfg, buffer=dataclasses.replace(cfg.buffer, address=buffer.address))
        tokenizer = Tokenizer.load(cfg.model.path).fingerprint
        with actor_in_a_thread(cfg, DEVICES, tokenizer):
            measured_s = seconds_per_step(SleepingLearner(cfg, DEVICES, tokenizer).run())
    predicted_s = simulated_period_s(cfg, DEVICES)
    assert predicted_s == pytest.approx(DEVICES.period_bound_s(BATCH, eta), rel=0.03)
    # who sleeps is never early; how late it is depends on what else the machine does
    assert 0.98 * predicted_s <= measured_s <= 3 * predicted_s
