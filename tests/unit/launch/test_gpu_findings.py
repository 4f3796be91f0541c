"""What the doctor says about GPUs, for machines that are only described."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.common.config.sections import Config, ModelConfig
from prolong.common.config.trees import to_tree
from prolong.common.errors import ConfigError
from prolong.launch import gpu_findings
from prolong.launch.gpu_findings import (
    check_pairs,
    compare_packages,
    describe_gpus,
    describe_start_method,
    examine_gpus,
    examine_memory,
    locked_versions,
)
from prolong.launch.gpus import Gpu, GpuReport
from prolong.launch.pair_check import PAIR_BYTES, measure_pair

CARD = Gpu(name="NVIDIA H200", total_bytes=141 << 30, free_bytes=140 << 30, capability=(9, 0))
REPORT = GpuReport(torch="2.14.0+cu130", cuda="13.0", nccl="2.30.7", gpus=[CARD, CARD])


def said(findings) -> dict[str, tuple[bool | None, str]]:
    return {what: (fine, sentence) for fine, what, sentence in findings}


def test_a_machine_in_order_is_described() -> None:
    found = said(describe_gpus(REPORT, "580.65.06", 2))
    assert found["driver"] == (True, "580.65.06")
    assert found["GPUs"] == (True, "torch sees 2 of 2: NVIDIA H200 of 141 GiB")
    assert found["CUDA and NCCL"] == (True, "torch 2.14.0+cu130, CUDA 13.0, NCCL 2.30.7")


def test_an_old_driver_is_named_with_the_one_that_is_needed() -> None:
    report = GpuReport(torch="2.14.0", cuda="13.0", problem="The NVIDIA driver on your system is too old")
    found = said(describe_gpus(report, "550.54.15", 1))
    assert found["driver"][0] is False
    assert "built for CUDA 13.0, which needs 580 or later: update the driver" in found["driver"][1]
    assert found["GPUs"] == (False, "1 here, and torch can use none: The NVIDIA driver on your system is too old")


def test_a_torch_for_cpus_on_a_machine_with_gpus_fails() -> None:
    report = GpuReport(torch="2.13.0+cpu", problem="torch 2.13.0+cpu is a build for CPUs")
    fine, sentence = said(describe_gpus(report, "580.65.06", 4))["GPUs"]
    assert fine is False
    assert "4 here, and torch can use none" in sentence
    assert "make install-gpu" in sentence


def test_memory_that_others_hold_is_noted() -> None:
    busy = GpuReport(torch="2.14.0", cuda="13.0", gpus=[CARD, Gpu(name="H", total_bytes=100, free_bytes=10, capability=(9, 0))])
    fine, sentence = said(describe_gpus(busy, "580.65.06", 2))["GPU memory"]
    assert fine is None
    assert "other programs hold memory of GPU 1" in sentence


def test_a_forked_engine_is_refused() -> None:
    assert said(describe_start_method({}))["engine process"][0] is True
    fine, sentence = said(describe_start_method({"VLLM_WORKER_MULTIPROC_METHOD": "fork"}))["engine process"]
    assert fine is False
    assert "unset that variable" in sentence


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements-gpu.lock"
    lock.write_text("# comment\ntorch==2.14.0+cu130\nvllm==0.33.0\ntransformers==5.20.2 ; python_version > '3'\n")
    locked = locked_versions(lock)
    assert locked == {"torch": "2.14.0+cu130", "vllm": "0.33.0", "transformers": "5.20.2"}
    same = {"torch": "2.14.0", "transformers": "5.20.2", "vllm": "0.33.0"}
    assert said(compare_packages(same, locked))["GPU packages"][0] is True
    fine, sentence = said(compare_packages(same | {"vllm": None}, locked))["GPU packages"]
    assert fine is None
    assert "vllm missing; tested are vllm 0.33.0" in sentence
    assert locked_versions(tmp_path / "nowhere") == {}


def test_the_lock_of_the_repository_names_what_is_compared() -> None:
    assert set(gpu_findings.LOCKED) <= set(locked_versions())


def test_pairs_of_gpus_are_tried_and_a_lone_one_is_not() -> None:
    tried: list[tuple[str, str]] = []

    def measure(left: str, right: str) -> float | str:
        tried.append((left, right))
        return "no answer within 90 s" if right == "2" else PAIR_BYTES / 100e9

    findings = list(check_pairs(["0", "1", "2"], measure))
    assert tried == [("0", "1"), ("1", "2")]
    assert findings[0] == (True, "NCCL pairs", "GPU 0 and 1: 100.0 GB/s")
    assert findings[1][0] is False
    assert "GPU 1 and 2: no answer within 90 s; try NCCL_P2P_DISABLE=1" in findings[1][2]
    ((fine, _, sentence),) = check_pairs(["0"], measure)
    assert fine is None
    assert "not tried: 1 GPU can be used" in sentence


def test_a_machine_without_gpus_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_findings, "has_gpu", lambda: False)
    assert list(examine_gpus(lambda _: None)) == [(True, "GPUs", "none here: everything runs on the CPU")]


@pytest.mark.slow
def test_two_processes_exchange_and_a_silent_one_is_given_up() -> None:
    """Through gloo: the same two children, without GPUs."""
    seconds = measure_pair("", "", backend="gloo")
    assert isinstance(seconds, float), seconds
    assert 0 < seconds < 60
    assert measure_pair("", "", backend="gloo", deadline_s=0.01) == "no answer within 0.01 s"
    assert "nonsense" in str(measure_pair("", "", backend="nonsense"))


def test_the_memory_of_a_run_is_a_finding_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config(model=ModelConfig(path="x", dtype="bfloat16"))
    before = to_tree(cfg)

    def share(settled: Config) -> list[str]:
        settled.actor.gpu_memory_utilization, settled.actor.kv_cache_gib = 0.4, 12.0
        return ["learner and actor share the GPU"]

    def refuse(_: Config) -> list[str]:
        raise ConfigError("this run does not fit: 682.9 GiB of 80 GiB")

    monkeypatch.setattr(gpu_findings, "computes_on_gpu", lambda _: True)
    monkeypatch.setattr(gpu_findings, "settle_gpus", share)
    assert list(examine_memory(cfg)) == [(None, "GPU memory", "learner and actor share the GPU")]
    assert to_tree(cfg) == before
    monkeypatch.setattr(gpu_findings, "settle_gpus", refuse)
    assert list(examine_memory(cfg)) == [(False, "GPU memory", "this run does not fit: 682.9 GiB of 80 GiB")]
