"""Speed metrics: phases by the clock and by a GPU's events, peaks, and that every step has them."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from prolong.common.config.choices import Correction
from prolong.learner import perf
from prolong.learner.batches.cost import ForwardCost
from prolong.learner.batches.packing import Sample
from prolong.learner.perf import (
    PHASES,
    PhaseClock,
    known_peak,
    measured_peak,
    memory_peak,
    peak_flops,
    perf_metrics,
    step_flops,
    trained_share,
)

from tests.support.batches import make_trainer, random_batch, small_config
from tests.support.tiny_model import make_tiny_model


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce GTX 750", None),
    ],
)
def test_a_gpu_is_known_by_a_whole_word_of_its_name(gpu: str, peak: float | None) -> None:
    assert known_peak(gpu) == peak


def test_mfu_is_useful_operations_over_time_ranks_and_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "peak_flops", lambda device, dtype: 1e12)
    metrics = perf_metrics(torch.device("cpu"), torch.float32, flops=6e12, tokens=3000.0, seconds=10.0, ranks=3)
    assert metrics["perf/mfu"] == pytest.approx(0.2)
    assert metrics["perf/tokens_per_s_per_gpu"] == pytest.approx(100.0)
    assert metrics["perf/memory_peak_bytes"] > 50e6


def test_a_peak_is_measured_once_where_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert measured_peak(cpu, torch.float32) > 1e8
    asked = []
    monkeypatch.setattr(perf, "measured_peak", lambda device, dtype: asked.append(dtype) or 5.0)
    peak_flops.cache_clear()
    try:
        assert [peak_flops(cpu, torch.float64), peak_flops(cpu, torch.float64)] == [5.0, 5.0]
    finally:
        peak_flops.cache_clear()
    assert asked == [torch.float64]


def test_memory_of_a_process_only_grows() -> None:
    cpu = torch.device("cpu")
    before = memory_peak(cpu)
    kept = bytearray(b"x") * 100_000_000
    assert memory_peak(cpu) >= before
    assert len(kept) == 100_000_000


def drawn(group: int, prompt: int, completion: int) -> Sample:
    tokens = np.ones(prompt + completion, dtype=np.int32)
    return Sample(
        group=group,
        prompt=tokens[:prompt],
        completion=tokens[prompt:],
        behaviour=np.zeros(completion, dtype=np.float32),
        keep=np.ones(completion, dtype=bool),
        staleness=np.zeros(completion, dtype=np.int32),
        temperature=1.0,
        reward=0.0,
    )


def test_prompts_count_once_and_a_frozen_forward_a_third() -> None:
    """6 operations for a parameter and a token: 2 forward, which is what the cost counts, and 4 backward."""
    cost = ForwardCost(token=2.0)
    family = [drawn(3, 10, 4), drawn(4, 7, 3), drawn(3, 10, 6)]
    assert step_flops([family], cost, trained_share=1.0, frozen_forwards=0) == 6 * 30
    assert step_flops([family], cost, trained_share=1.0, frozen_forwards=2) == (6 + 4) * 30
    assert step_flops([family[:1], family[1:]], cost, trained_share=1.0, frozen_forwards=0) == 6 * 40
    assert step_flops([family], cost, trained_share=0.0, frozen_forwards=0) == 4 * 30


def test_frozen_weights_do_not_make_attention_cheaper() -> None:
    cost = ForwardCost(token=0.0, attention=((None, 4.0),))
    document = [drawn(0, 5, 3)]
    assert step_flops([document], cost, trained_share=0.0, frozen_forwards=0) == 12 * 8 * 9 / 2
    assert step_flops([document], cost, trained_share=1.0, frozen_forwards=0) == 12 * 8 * 9 / 2


def test_the_trained_share_is_one_of_numbers() -> None:
    layers = [torch.nn.Linear(3, 5, bias=False), torch.nn.Linear(5, 1, bias=False).requires_grad_(False)]
    assert trained_share(p for layer in layers for p in layer.parameters()) == 0.75


class FakeEvent:
    """An event of a GPU whose clock gains 7 ms from one event to the next."""

    recorded: ClassVar[list["FakeEvent"]] = []
    waits: ClassVar[list["FakeEvent"]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at_ms = 7.0 * len(self.recorded)
        self.recorded.append(self)

    def synchronize(self) -> None:
        self.waits.append(self)

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at_ms - self.at_ms


def test_phases_of_a_gpu_are_measured_by_its_events_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEvent, "recorded", [])
    monkeypatch.setattr(FakeEvent, "waits", [])
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = PhaseClock(torch.device("cuda", 0))
    for phase in ("forward_backward", "optimizer", "forward_backward", "optimizer"):
        with clock(phase):
            pass
    assert clock.take() == pytest.approx(
        {"learner/reference_s": 0.0, "learner/proximal_s": 0.0}
        | {"learner/forward_backward_s": 0.014, "learner/optimizer_s": 0.014}
    )
    assert FakeEvent.waits == [FakeEvent.recorded[-1]]
    assert clock.take() == dict.fromkeys((f"learner/{phase}_s" for phase in PHASES), 0.0)


def test_every_step_tells_its_phases_and_its_speed(tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=True))
    cfg.objective.kl_beta, cfg.learner.minibatches = 0.1, 2
    cfg.objective.correction = Correction.decoupled
    trainer = make_trainer(cfg)
    metrics = trainer.train(random_batch(0, groups=4))
    phases = [metrics[f"learner/{phase}_s"] for phase in PHASES]
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) <= metrics["learner/compute_s"]
    assert metrics["perf/mfu"] > 0
    assert metrics["perf/tokens_per_s_per_gpu"] == pytest.approx(metrics["learner/tokens_per_s"])
    assert metrics["perf/memory_peak_bytes"] > 0
