"""The losses of docs/extending.md, each in a copy of the product: a step trains with them, and gets the formula's loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.extension import ROOT, diff_of, extended_tree, touched_files
from tests.support.tiny_model import make_tiny_model

# Trains one step with the loss named on the command line, for two token budgets, and prints the metrics, with every token's
# ratio and advantage for an oracle: the extension exists in the copy of the tree alone.
PROGRAM = """
import json
import sys
from pathlib import Path

import torch
from prolong.common.config.algorithm import ObjectiveConfig
from prolong.common.config.choices import Correction, Loss
from prolong.common.types import float32_array
from tests.support.batches import make_policy, make_trainer, mixed_batch, near_policy
from tests.support.batches import samples_under, small_config, solo_logprobs

cfg = small_config(Path(sys.argv[1]))
cfg.objective = ObjectiveConfig(loss=Loss[sys.argv[2]], correction=Correction.bypass, kl_beta=0.0)
batch = near_policy(mixed_batch(0), make_policy(cfg))
(samples,) = samples_under(cfg, batch)
causal = make_policy(cfg).causal
causal.set_attn_implementation("sdpa")
pairs = [(group, rollout) for group in batch.groups for rollout in group.rollouts]
tokens = []
with torch.no_grad():
    for sample, (group, rollout) in zip(samples, pairs, strict=True):
        behaviour = torch.tensor(float32_array(rollout.behaviour_logprobs)).double()
        ratios = (solo_logprobs(causal, group, rollout)[0] - behaviour).exp()
        tokens += [(ratio, sample.advantage) for ratio in ratios.tolist()]
metrics = []
for cfg.learner.token_budget in (60, 100_000):
    metrics.append(make_trainer(cfg).train(batch))
print(json.dumps({"tokens": tokens, "metrics": metrics}))
"""


def step_with(heading: str, loss: str, folder: Path) -> tuple[list[tuple[float, float]], list[dict[str, float]]]:
    """(ratio, advantage) of every token, and the metrics of a step for two token budgets, from a copy of the product."""
    environment = extended_tree(heading, folder / "tree")
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    model = make_tiny_model(folder / "model", tied=True)
    command = [sys.executable, "-c", PROGRAM, str(model), loss]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return [(ratio, advantage) for ratio, advantage in found["tokens"]], found["metrics"]


def ppo(ratio: float, advantage: float, low: float, high: float) -> float:
    return max(-advantage * ratio, -advantage * min(max(ratio, low), high))


@pytest.mark.timeout(180)
def test_a_loss_of_each_token_trains(tmp_path: Path) -> None:
    tokens, metrics = step_with("A loss", "spo", tmp_path)
    losses = [abs(advantage) * (ratio - 1) ** 2 / 0.4 - advantage * ratio for ratio, advantage in tokens]
    for step in metrics:
        assert step["learner/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        assert step["learner/grad_norm"] > 0
    assert metrics[0]["learner/micro_batches"] > metrics[1]["learner/micro_batches"]


@pytest.mark.timeout(180)
def test_a_loss_over_the_whole_mini_batch_trains_the_same_for_every_split(tmp_path: Path) -> None:
    tokens, metrics = step_with("A loss over the whole mini-batch", "quantile", tmp_path)
    for step in metrics:
        low, high = step["policy/quantile_low"], step["policy/quantile_high"]
        assert sum(ratio < low for ratio, _ in tokens) == pytest.approx(0.1 * len(tokens), abs=1)
        assert sum(ratio > high for ratio, _ in tokens) == pytest.approx(0.1 * len(tokens), abs=1)
        losses = [ppo(ratio, advantage, low, high) for ratio, advantage in tokens]
        assert step["learner/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert metrics[0]["policy/quantile_high"] == pytest.approx(metrics[1]["policy/quantile_high"], rel=1e-9)
    assert metrics[0]["learner/micro_batches"] > metrics[1]["learner/micro_batches"]


@pytest.mark.parametrize("heading", ["A loss", "A loss over the whole mini-batch"])
def test_each_touches_three_files_and_not_the_step(heading: str) -> None:
    name, table, loss = touched_files(diff_of(heading))
    assert (name, table) == ("common/config/choices.py", "learner/algorithm/losses/table.py")
    assert not (ROOT / loss).exists()
