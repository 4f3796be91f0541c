"""The actor's process asks for a GPU without opening CUDA's driver, and on a GPU its engine process is not forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# A torch with CUDA and one GPU, as far as can be played on any machine. Opening the driver is noted; NVML would not open it.
ACTOR = """
import json, os, sys, torch
opened = []
torch._C._cuda_getDeviceCount = lambda: opened.append("driver") or 1
torch.cuda._is_compiled = lambda: True
torch.cuda.device_count = lambda: 1
import prolong.actor.main
from prolong.actor.engines.vllm.settings import runs_on_gpu, set_environment
from prolong.common.config.choices import Device
from prolong.common.config.sections import ModelConfig
model = ModelConfig(path="none", device=Device[sys.argv[1]])
set_environment(model)
vllm_came_first = "vllm" in sys.modules
print(json.dumps([runs_on_gpu(model), opened, vllm_came_first, os.environ.get("VLLM_WORKER_MULTIPROC_METHOD")]))
"""


def start_of(device: str) -> list[object]:
    free = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "PYTORCH_", "CUDA_"))}
    done = subprocess.run([sys.executable, "-c", ACTOR, device], env=free, stdout=subprocess.PIPE, timeout=200, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_an_actor_on_a_gpu_leaves_the_driver_closed_and_spawns_its_engine(device: str) -> None:
    assert start_of(device) == [True, [], False, "spawn"]


def test_an_actor_on_the_cpu_may_fork_its_engine() -> None:
    assert start_of("cpu") == [False, [], False, None]
