"""What the machine's GPUs are, and the dtype that follows from it; no GPU is needed to tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from prolong.common.config.actors import kinds_of_actors
from prolong.common.config.choices import Device
from prolong.common.config.pools import PoolConfig
from prolong.common.config.sections import Config, ModelConfig
from prolong.launch import cli, gpus, torchrun
from prolong.launch.gpus import Gpu, GpuReport, driver_version, probe_gpus, visible_gpus
from prolong.launch.model_check import settle_dtype

from tests.support.tiny_model import make_tiny_model

CARD = Gpu(name="NVIDIA H200", total_bytes=150 << 30, free_bytes=149 << 30, capability=(9, 0))


def settled(device: Device, dtype: str = "auto") -> str:
    cfg = Config(model=ModelConfig(path="x", device=device, dtype=dtype))
    settle_dtype(cfg)
    return cfg.model.dtype


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with these GPUs, as torch reports them."""

    def pretend(*cards: Gpu, problem: str = "", device_files: bool = True) -> None:
        monkeypatch.setattr(gpus, "has_gpu", lambda: device_files)
        monkeypatch.setattr(gpus, "probe_gpus", lambda: GpuReport(torch="2.14.0", gpus=list(cards), problem=problem))

    return pretend


def test_auto_is_bfloat16_on_a_gpu_and_float32_on_a_cpu(machine) -> None:
    machine(CARD)
    assert (settled(Device.auto), settled(Device.cuda), settled(Device.cpu)) == ("bfloat16", "bfloat16", "float32")


def test_auto_of_a_pool_is_settled_for_the_device_of_the_pool(machine) -> None:
    machine(CARD)
    cfg = Config(model=ModelConfig(path="x", dtype="float16"))
    cfg.pools = {"card": PoolConfig(model={"dtype": "auto"}), "cpu": PoolConfig(model={"dtype": "auto", "device": "cpu"})}
    settle_dtype(cfg)
    assert [kind.model.dtype for kind in kinds_of_actors(cfg).values()] == ["bfloat16", "float32"]


def test_auto_is_float32_where_torch_cannot_use_the_gpu(machine) -> None:
    machine(problem="the driver is too old")
    assert settled(Device.auto) == "float32"


def test_a_machine_without_device_files_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> GpuReport:
        raise AssertionError("no process is started on a machine without a GPU")

    monkeypatch.setattr(gpus, "has_gpu", lambda: False)
    monkeypatch.setattr(gpus, "probe_gpus", refuse)
    assert settled(Device.auto) == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_given_stays(machine, dtype: str) -> None:
    machine(CARD)
    assert settled(Device.auto, dtype) == settled(Device.cpu, dtype) == dtype


def test_visible_gpus_are_what_the_environment_says_before_the_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-abc"}, tmp_path) == ["3", "GPU-abc"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_the_driver_tells_its_version_in_proc(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    assert driver_version(file) == "580.65.06"
    assert driver_version(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(
    ("child", "said"),
    [
        (
            subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libcuda.so.1"),
            "exit code 1: ImportError: libcuda.so",
        ),
        (subprocess.CompletedProcess([], 0, "some library greets\n", ""), "exit code 0"),
        (subprocess.TimeoutExpired([], 90.0), "did not say within 90 s"),
    ],
)
def test_a_probe_that_fails_is_a_report_with_the_reason(monkeypatch: pytest.MonkeyPatch, child: object, said: str) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(child, Exception):
            raise child
        return child

    monkeypatch.setattr(subprocess, "run", run)
    report = probe_gpus.__wrapped__()
    assert report.gpus == []
    assert said in report.problem


def test_a_build_of_torch_for_cpus_says_so() -> None:
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torch here is a build for GPUs")
    assert "a build for CPUs; install the `gpu` extra" in gpus.ask_torch().problem


@pytest.mark.parametrize(("cards", "dtype"), [([], "float32"), ([CARD], "bfloat16")])
def test_a_learner_by_itself_starts_with_a_settled_dtype(
    machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[Gpu], dtype: str
) -> None:
    """Its ranks read config.yaml, in which auto would be settled by each of them."""
    launched: list[Config] = []

    def launch(cfg: Config, _: object) -> int:
        launched.append(cfg)
        return 0

    machine(*cards)
    monkeypatch.setattr(torchrun, "launch_ranks", launch)
    model = make_tiny_model(tmp_path / "model", tied=True)
    settings = [f"model.path={model}", f"run.root={tmp_path}", "model.max_context=128", "sampling.max_tokens=64"]
    assert cli.dispatch(["learner", *settings]) == 0
    assert [cfg.model.dtype for cfg in launched] == [dtype]
