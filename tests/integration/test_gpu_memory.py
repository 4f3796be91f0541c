"""On a GPU: what torch reports of it, an exchange between two, and a learner's step against its predicted memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prolong.launch.gpus import driver_version, probe_gpus, visible_gpus
from prolong.launch.pair_check import measure_pair

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

# a process of its own: the peak is that of a process
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from prolong.bench.memory import MODELS, learner_settings
from prolong.bench.memory_tracker import full_batch
from prolong.common.config.choices import Device
from prolong.launch.plan.machine_fit import predict
from prolong.launch.plan.model_shape import ModelShape
from prolong.learner.main import load_policy
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer

config = MODELS["0.6B"] | {"num_hidden_layers": 4}
folder, device = sys.argv[1], torch.device("cuda", 0)
torch.manual_seed(0)
AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).bfloat16().save_pretrained(folder)
cfg = learner_settings(folder, 1)
cfg.model.device = Device.cuda
ranks = join_ranks(starve_s=60.0, cuda=True, always=True)
policy = load_policy(cfg.model, cfg.learner, ranks, device)
reference = Reference(load_policy(cfg.model, cfg.learner, ranks, device, trainable=False))
trainer = Trainer(StepConfig.of(cfg), policy, reference, ranks, device)
for _ in range(2):
    torch.cuda.reset_peak_memory_stats()
    trainer.train(full_batch(cfg, 1, micro_batches=2))
allocated = torch.cuda.max_memory_allocated()
leave_ranks()
print(json.dumps([predict(ModelShape.of(config), cfg).tensors, allocated]))
"""


def test_torch_sees_the_gpus_of_the_machine() -> None:
    report = probe_gpus()
    assert report.problem == ""
    assert len(report.gpus) == len(visible_gpus(os.environ))
    assert all(0 < card.free_bytes <= card.total_bytes for card in report.gpus)
    assert report.cuda
    assert report.nccl
    assert int(driver_version().partition(".")[0]) > 0


def test_a_step_allocates_what_the_plan_predicts(tmp_path: Path) -> None:
    """More than a tenth apart: kernels of the GPU hold what fake tensors do not show, or the plan misses it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    predicted, allocated = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert 0.9 <= predicted / allocated <= 1.15, (predicted, allocated)


@pytest.mark.gpu(count=2)
def test_two_gpus_exchange_through_nccl() -> None:
    first, second = visible_gpus(os.environ)[:2]
    seconds = measure_pair(first, second)
    assert isinstance(seconds, float), seconds
