"""What `prolong doctor` finds out about GPUs: driver, torch, NCCL, packages, pairs, and the memory of a run.

Every finding is made of plain values, so that it can be tested on machines without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

from ..common.config.actors import kinds_of_actors
from ..common.config.sections import Config
from ..common.errors import ProlongError
from .gpus import GpuReport, computes_on_gpu, driver_version, has_gpu, probe_gpus, visible_gpus
from .local.gpu_check import settle_gpus
from .pair_check import PAIR_BYTES, measure_pair

# (True: fine, False: must be repaired, None: matters for some runs; subject; sentence)
GpuFinding = tuple[bool | None, str, str]
# CUDA's major version that torch was built for -> the oldest driver that runs it
DRIVERS = {12: 525, 13: 580}
LOCKED = ("torch", "transformers", "vllm")
LOCK = Path(__file__).resolve().parent.parent / "requirements-gpu.lock"
GIB = 1 << 30


def examine_gpus(version: Callable[[str], str | None]) -> Iterator[GpuFinding]:
    """The findings on this machine. `version` gives the installed version of a package, or None."""
    if not has_gpu():
        yield True, "GPUs", "none here: everything runs on the CPU"
        return
    names, report = visible_gpus(os.environ), probe_gpus()
    yield from describe_gpus(report, driver_version(), len(names))
    yield from describe_start_method(os.environ)
    yield from compare_packages({name: version(name) for name in LOCKED}, locked_versions())
    yield from check_pairs(names if report.gpus else [], measure_pair)


def describe_gpus(report: GpuReport, driver: str, number: int) -> Iterator[GpuFinding]:
    """Driver, and what torch sees of `number` GPUs."""
    needed = DRIVERS.get(int(report.cuda.partition(".")[0])) if report.cuda else None
    if not driver:
        yield None, "driver", "its version is not in /proc/driver/nvidia/version; `nvidia-smi` may know it"
    elif needed is not None and int(driver.partition(".")[0]) < needed:
        cure = f"torch {report.torch} is built for CUDA {report.cuda}, which needs {needed} or later: update the driver"
        yield False, "driver", f"{driver}: {cure}"
    else:
        yield True, "driver", driver
    if not report.gpus:
        cure = "" if report.cuda else " (`make install-gpu`, or model.device=cpu)"
        yield False, "GPUs", f"{number} here, and torch can use none: {report.problem}{cure}"
        return
    kinds = ", ".join(sorted({f"{card.name} of {card.total_bytes / GIB:.0f} GiB" for card in report.gpus}))
    yield len(report.gpus) == number, "GPUs", f"torch sees {len(report.gpus)} of {number}: {kinds}"
    busy = [index for index, card in enumerate(report.gpus) if card.free_bytes < 0.9 * card.total_bytes]
    if busy:
        used = ", ".join(f"{index} ({report.gpus[index].free_bytes / GIB:.0f} GiB free)" for index in busy)
        yield None, "GPU memory", f"other programs hold memory of GPU {used}; `nvidia-smi` names them"
    yield True, "CUDA and NCCL", f"torch {report.torch}, CUDA {report.cuda}, NCCL {report.nccl or 'unknown'}"


def describe_start_method(environ: Mapping[str, str]) -> Iterator[GpuFinding]:
    """How vLLM starts its engine process: a fork of a process that has asked for GPUs cannot use them."""
    method = environ.get("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if method == "fork":
        yield False, "engine process", "VLLM_WORKER_MULTIPROC_METHOD=fork: its CUDA calls would fail; unset that variable"
    else:
        yield True, "engine process", f"it is started by {method}, so that it opens CUDA by itself"


def locked_versions(lock: Path = LOCK) -> dict[str, str]:
    """The versions of requirements-gpu.lock; none where prolong is installed without it."""
    if not lock.is_file():
        return {}
    pairs = (line.partition("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip(): version.partition(";")[0].strip() for name, _, version in pairs}


def compare_packages(installed: Mapping[str, str | None], locked: Mapping[str, str]) -> Iterator[GpuFinding]:
    """The packages that compute on GPUs, against the set that prolong is tested with."""
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in installed.items())
    other = [
        f"{name} {locked[name]}"
        for name, version in installed.items()
        if name in locked and (version or "").partition("+")[0] != locked[name].partition("+")[0]
    ]
    if other:
        yield None, "GPU packages", f"{found}; tested are {', '.join(other)}: `make install-gpu` installs these"
    else:
        yield True, "GPU packages", found


def check_pairs(names: list[str], measure: Callable[[str, str], float | str]) -> Iterator[GpuFinding]:
    """An exchange between every two neighbours."""
    if len(names) < 2:
        yield None, "NCCL pairs", f"not tried: {len(names)} GPU{'s' if not names else ''} can be used, and a pair needs two"
        return
    for left, right in pairwise(names):
        result = measure(left, right)
        if isinstance(result, str):
            cure = "try NCCL_P2P_DISABLE=1 (and switch off ACS or the IOMMU), or NCCL_DEBUG=INFO for its log"
            yield False, "NCCL pairs", f"GPU {left} and {right}: {result}; {cure}"
        else:
            yield True, "NCCL pairs", f"GPU {left} and {right}: {PAIR_BYTES / result / 1e9:.1f} GB/s"


def examine_memory(cfg: Config) -> Iterator[GpuFinding]:
    """Whether the run of `cfg`, whose dtype is settled, fits on the GPUs of this machine."""
    if not any(computes_on_gpu(kind.model.device) for kind in (cfg, *kinds_of_actors(cfg).values())):
        return
    try:
        notes = settle_gpus(deepcopy(cfg))
    except ProlongError as error:
        yield False, "GPU memory", str(error)
        return
    if not notes:
        yield True, "GPU memory", "the run fits (`prolong plan memory` shows the sum)"
    for note in notes:
        yield None, "GPU memory", note
