"""One rank of tests/integration/test_learner_ranks.py: train on recorded batches, under FSDP2 when there are several ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from batches import make_policy, random_batch, small_config
from prolong.learner.checkpoint import LearnerState, load_checkpoint, read_state, save_checkpoint
from prolong.learner.ranks import join_ranks, leave_ranks
from prolong.learner.reference import Reference
from prolong.learner.step import Trainer
from safetensors.torch import save_file


def main(model: Path, folder: Path, mode: str) -> None:
    """`train`: steps 0..4 with a checkpoint at 3 and 5; `resume`: from 3, the last again, into folder/resumed."""
    torch.set_num_threads(1)
    ranks = join_ranks(starve_s=30.0, cuda=False)
    cfg = small_config(model)
    cfg.objective.kl_beta = 0.1
    start = folder / "step-00000003"
    if mode == "resume":
        cfg.model.path = str(start)
    policy, frozen = (make_policy(cfg, trainable=t, shard=True, dtype=torch.float32) for t in (True, False))
    trainer = Trainer(cfg, policy, Reference(frozen), ranks, torch.device("cpu"))
    first = 0
    if mode == "resume":
        state = read_state(start)
        load_checkpoint(start, state, trainer, ranks)
        first, folder = state.version, folder / "resumed"
    for version in range(first, 5):
        metrics = trainer.train(random_batch(version))
        if version == 0:
            gradients = {name: p.grad.full_tensor() for name, p in policy.causal.named_parameters()}
            if ranks.first:
                save_file(gradients | {"loss": torch.tensor(metrics["learner/loss"])}, folder / "gradients.safetensors")
        if version in (2, 4):
            state = LearnerState(version=version + 1, generation=1)
            save_checkpoint(folder, state, trainer, ranks, dtype="float32", source=None, keep=5)
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
