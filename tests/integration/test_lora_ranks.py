"""Two real gloo ranks that train adapters under FSDP2 against one plain rank, and checkpoints between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.learner.checkpoints.checkpoint import fill_policy, load_checkpoint, read_state
from prolong.learner.ranks import Ranks
from safetensors.torch import load_file

from tests.support import lora_ranks
from tests.support.batches import make_trainer, random_batch
from tests.support.learner_process import fork_ranks
from tests.support.tiny_model import make_tiny_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_ranks_train_the_adapters_of_one(tmp_path: Path, dtype: str) -> None:
    """Also resumed by two ranks, which the ranks check themselves, and by one."""
    model = make_tiny_model(tmp_path / "model", tied=True)
    fork_ranks(lora_ranks.run, model, tmp_path, dtype, ranks=2, folder=tmp_path)
    theirs = load_file(tmp_path / f"{dtype}.safetensors")
    cfg = lora_ranks.lora_config_for(model, "float32")
    torch.manual_seed(0)
    alone = make_trainer(cfg, dtype=torch.float32)
    metrics = lora_ranks.steps(alone, range(lora_ranks.STEPS))
    checkpoint = tmp_path / dtype / f"step-{lora_ranks.STEPS:08d}"
    resumed = make_trainer(cfg, dtype=torch.float32)
    fill_policy(resumed.policy, checkpoint)
    load_checkpoint(checkpoint, read_state(checkpoint), resumed, Ranks())
    assert (checkpoint / "adapter_model.safetensors").is_file()
    exact = dtype == "float32"
    assert theirs["learner/loss"].item() == pytest.approx(metrics["learner/loss"], rel=1e-4 if exact else 0.1)
    assert theirs["reference/kl"].item() == pytest.approx(metrics["reference/kl"], rel=1e-3 if exact else 0.3)
    if exact:
        for trainer in (alone, resumed):
            trainer.train(random_batch(lora_ranks.STEPS))
            for name, value in trainer.policy.full_parameters():
                torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-5, msg=name)
