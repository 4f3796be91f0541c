"""The speed of a step: seconds of its phases, use of the hardware, peak of the memory.

`perf/mfu` is the rate of the step's useful operations, waiting left out, as a share of the rate of the fastest product of
matrices. That is known for common GPUs in half precision, and measured otherwise. Useful is what the model needs, not what is
computed again or only fills a row: the forward pass (model/flops.py), twice that backward, half of it for frozen weights.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import groupby
from time import perf_counter

import torch
from torch import Tensor

from .batches.cost import ForwardCost
from .batches.packing import Sample, family_cost

# each is a metric: learner/NAME_s
PHASES = ("reference", "proximal", "forward_backward", "optimizer")
# FLOP/s of dense half-precision products with float32 sums, by a name inside the GPU's; the first that fits counts.
# Source: the makers' data sheets
KNOWN_PEAKS = {
    "B300": 2250e12,
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
HALF = (torch.bfloat16, torch.float16)
ROUNDS = 5


class PhaseClock:
    """Seconds of a step's phases: on a GPU those of its stream, not those of the launches.

    Example: with clock("optimizer"): ...; clock.take() == {"learner/optimizer_s": 0.012, ...}
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = self._mark()
        yield
        self._marks.append((phase, started, self._mark()))

    def _mark(self) -> float | torch.cuda.Event:
        if not self._gpu:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> dict[str, float]:
        """The seconds of every phase since the last call. Waits until the GPU has finished the last one."""
        marks, self._marks = self._marks, []
        seconds = dict.fromkeys((f"learner/{phase}_s" for phase in PHASES), 0.0)
        if marks and isinstance(last := marks[-1][2], torch.cuda.Event):
            last.synchronize()
        for phase, started, ended in marks:
            seconds[f"learner/{phase}_s"] += _between(started, ended)
        return seconds


def _between(started: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(started, torch.cuda.Event):
        assert isinstance(ended, torch.cuda.Event)
        return started.elapsed_time(ended) / 1e3
    assert isinstance(ended, float)
    return ended - started


def step_flops(updates: Iterable[Sequence[Sample]], cost: ForwardCost, *, trained_share: float, frozen_forwards: int) -> float:
    """Count a step's useful operations on all ranks: every update forward and backward, and `frozen_forwards` passes before.

    The rollouts of a prompt share it. The gradients of states and of weights each cost as much as the forward pass; attention
    has states on both sides.
    """
    families = [list(family) for samples in updates for _, family in groupby(sorted(samples, key=_group), key=_group)]
    attention = replace(cost, token=0.0, target=0.0)
    forward = sum(family_cost(family, cost) for family in families)
    pairs = sum(family_cost(family, attention) for family in families)
    return (forward - pairs) * (2.0 + trained_share + frozen_forwards) + pairs * (3.0 + frozen_forwards)


def _group(sample: Sample) -> int:
    return sample.group


def trained_share(parameters: Iterable[Tensor]) -> float:
    """The share of the parameters that is trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in parameters]
    return sum(size for size, trained in sizes if trained) / max(sum(size for size, _ in sizes), 1)


def perf_metrics(
    device: torch.device, dtype: torch.dtype, *, flops: float, tokens: float, seconds: float, ranks: int
) -> dict[str, float]:
    """Compute a step's metrics: `flops` and `tokens` of all ranks in `seconds` of computing in `dtype`."""
    return {
        "perf/mfu": flops / seconds / ranks / peak_flops(device, dtype),
        "perf/tokens_per_s_per_gpu": tokens / seconds / ranks,
        "perf/memory_peak_bytes": memory_peak(device),
    }


def memory_peak(device: torch.device) -> float:
    """Peak of the bytes in tensors of a GPU since the last call; on a CPU, of the process since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(peak)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest product of matrices on a device: known, or measured once."""
    known = known_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" and dtype in HALF else None
    return measured_peak(device, dtype) if known is None else known


def known_peak(gpu: str) -> float | None:
    """Look a GPU up by its name."""
    return next((peak for name, peak in KNOWN_PEAKS.items() if re.search(rf"\b{re.escape(name)}\b", gpu)), None)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Time a square product a few times; the best counts."""
    size = 512 if device.type == "cpu" else 4096
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(ROUNDS):
        started = perf_counter()
        # read, so that a GPU has finished
        (matrix @ matrix)[0, 0].item()
        best = min(best, perf_counter() - started)
    return 2.0 * size**3 / best
