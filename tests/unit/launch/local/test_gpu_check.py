"""Runs on pretended GPUs: too few are refused, too small ones are refused or noted, and a single one is split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from prolong.bench.memory import MODELS
from prolong.common.config.choices import Device, Recompute
from prolong.common.config.pools import PoolConfig
from prolong.common.config.sections import Config, LaunchConfig, LearnerConfig, ModelConfig
from prolong.common.errors import ConfigError
from prolong.launch.gpus import Gpu, GpuReport
from prolong.launch.local import gpu_check
from prolong.launch.local.gpu_check import settle_gpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with equal GPUs of so many GiB, and maybe others."""

    def pretend(
        number: int, gib: int = 80, capability: tuple[int, int] = (9, 0), problem: str = "", others: Sequence[int] = ()
    ) -> None:
        sizes = [gib << 30] * number + [other << 30 for other in others]
        cards = [Gpu(name="H", total_bytes=size, free_bytes=size, capability=capability) for size in sizes]
        number += len(others)
        report = GpuReport(torch="2.14.0", cuda="13.0", gpus=[] if problem else cards, problem=problem)
        monkeypatch.setattr(gpu_check, "computes_on_gpu", lambda device: device is not Device.cpu)
        monkeypatch.setattr(gpu_check, "visible_gpus", lambda _: [str(index) for index in range(number)])
        monkeypatch.setattr(gpu_check, "probe_gpus", lambda: report)

    return pretend


@pytest.fixture
def config(tmp_path: Path):
    """A run of a model of which there is a config.json."""

    def make(model: str, *, ranks: int = 1, actors: int = 1, dtype: str = "bfloat16", device: Device = Device.auto) -> Config:
        (tmp_path / "config.json").write_text(json.dumps(MODELS[model]))
        return Config(
            model=ModelConfig(path=str(tmp_path), dtype=dtype, max_context=4096, device=device),
            learner=LearnerConfig(token_budget=8192, recompute=Recompute.true),
            launch=LaunchConfig(learner_ranks=ranks, actors=actors),
        )

    return make


def test_learner_and_actor_split_one_gpu(machine, config) -> None:
    machine(1)
    cfg = config("0.6B")
    (note,) = settle_gpus(cfg)
    assert 0.5 < cfg.actor.gpu_memory_utilization < 0.85
    assert 20 < cfg.actor.kv_cache_gib < 60
    assert f"vLLM gets actor.gpu_memory_utilization = {cfg.actor.gpu_memory_utilization:g} of it (instead of 0.85)" in note


def test_a_cache_of_an_earlier_start_is_no_larger_than_the_room_of_this_one(machine, config) -> None:
    """config.yaml holds the size; a larger learner, or a smaller GPU, leaves less."""
    machine(1)
    cfg = config("0.6B")
    cfg.actor.kv_cache_gib = 500.0
    settle_gpus(cfg)
    assert 20 < cfg.actor.kv_cache_gib < 60
    cfg.actor.kv_cache_gib = 2.0
    settle_gpus(cfg)
    assert cfg.actor.kv_cache_gib == 2.0


def test_gpus_of_their_own_leave_the_settings_alone(machine, config) -> None:
    machine(2)
    cfg = config("0.6B")
    assert settle_gpus(cfg) == []
    assert cfg.actor.gpu_memory_utilization == 0.85


def test_too_few_gpus_are_refused_before_torch_is_asked(machine, config) -> None:
    machine(4)
    with pytest.raises(ConfigError, match=r"needs 8 GPUs .* this machine has 4"):
        settle_gpus(config("0.6B", ranks=4, actors=4))


def test_a_run_that_cannot_work_is_refused_with_the_sum_and_the_cure(machine, config) -> None:
    machine(8, gib=40)
    with pytest.raises(ConfigError, match=r"a rank of the learner takes .* GiB of 40 GiB; it fits with .*learner.offload=all"):
        settle_gpus(config("32B", ranks=8, actors=0))
    machine(1, gib=16)
    with pytest.raises(ConfigError, match=r"vLLM gets 0.\d\d of 16 GiB beside the learner's"):
        settle_gpus(config("0.6B"))


def test_a_run_that_may_fail_starts_with_a_note(machine, config) -> None:
    machine(8)
    (note,) = settle_gpus(config("32B", ranks=8, actors=0))
    assert note.startswith("memory may not suffice: the run does not fit: a rank of the learner takes")


def test_float32_on_a_gpu_is_noted_with_numbers(machine, config) -> None:
    machine(2)
    (note,) = settle_gpus(config("0.6B", dtype="float32"))
    assert "67 against 989 TFLOP/s" in note


def test_bfloat16_on_an_old_gpu_is_noted(machine, config) -> None:
    machine(2, capability=(7, 5))
    (note,) = settle_gpus(config("0.6B"))
    assert "compute capability 7.5" in note


def test_gpus_that_torch_cannot_use_are_refused_with_its_reason(machine, config) -> None:
    machine(2, problem="the driver is too old")
    with pytest.raises(ConfigError, match=r"model.device = cuda: torch can use no GPU here \(the driver is too old\)"):
        settle_gpus(config("0.6B", device=Device.cuda))


def test_a_run_on_the_cpu_is_not_asked(machine, config) -> None:
    machine(0)
    assert settle_gpus(config("0.6B", device=Device.cpu)) == []


def test_a_pool_that_shares_the_learners_gpu_gets_what_it_leaves(machine, config) -> None:
    machine(1)
    cfg = config("0.6B")
    cfg.pools = {"card": PoolConfig(), "cpu": PoolConfig(model={"device": "cpu"})}
    (note,) = settle_gpus(cfg)
    assert note.startswith("pool card: learner and actor share the GPU")
    share = cfg.pools["card"].actor["gpu_memory_utilization"]
    assert isinstance(share, float)
    assert 0.5 < share < 0.85
    assert cfg.actor.gpu_memory_utilization == 0.85


def test_each_pool_and_the_learner_are_counted_on_their_own_cards(machine, config) -> None:
    machine(1, others=[8])
    cfg = config("0.6B")
    cfg.pools = {"small": PoolConfig(gpus=[1], actor={"gpu_memory_utilization": 0.7})}
    assert settle_gpus(cfg) == []
    cfg.pools = {"small": PoolConfig(gpus=[0])}
    with pytest.raises(ConfigError, match=r"^this run does not fit: a rank of the learner takes .* of 8 GiB"):
        settle_gpus(cfg)
    machine(1, others=[1])
    cfg.pools = {"small": PoolConfig(gpus=[1])}
    with pytest.raises(ConfigError, match=r"^pool small: this run does not fit: actor.gpu_memory_utilization = 0.85 of 1 GiB"):
        settle_gpus(cfg)
