"""One rank of tests/integration/test_lora_ranks.py: train adapters on recorded batches under FSDP2."""

from __future__ import annotations

from pathlib import Path

import torch
from prolong.common.config.sections import Config
from prolong.learner.batches.packing import pack
from prolong.learner.checkpoints.checkpoint import LearnerState, fill_policy, load_checkpoint, read_state
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.model.reference import AdapterReference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from tests.support.batches import make_policy, random_batch, samples_under, small_config

STEPS = 3


def lora_config_for(model: Path, dtype: str) -> Config:
    """Adapters of rank 3, which two ranks cannot share evenly; the reference is replaced after the second step."""
    cfg = small_config(model)
    cfg.model.dtype, cfg.model.lora = dtype, {"rank": 3, "alpha": 6.0}
    return cfg


def steps(trainer: Trainer, versions: range) -> dict[str, float]:
    """Train; the metrics of the last step."""
    metrics: dict[str, float] = {}
    for version in versions:
        metrics = trainer.train(random_batch(version))
        if version == 1:
            assert trainer.reference is not None
            trainer.reference.reset(trainer.policy)
    return metrics


def make_sharded_trainer(cfg: Config, ranks: Ranks) -> Trainer:
    policy = make_policy(cfg, shard=True, mesh=ranks.mesh)
    return Trainer(StepConfig.of(cfg), policy, AdapterReference(policy), ranks, torch.device("cpu"))


def run(model: Path, folder: Path, dtype: str) -> None:
    """Train, save, resume in another trainer, and train both once more; rank 0 leaves folder/DTYPE.safetensors."""
    torch.set_num_threads(1)
    ranks = join_ranks(starve_s=30.0, cuda=False)
    cfg = lora_config_for(model, dtype)
    torch.manual_seed(0)
    trainer = make_sharded_trainer(cfg, ranks)
    frozen = {parameter.dtype for parameter in trainer.policy.parameters() if not parameter.requires_grad}
    assert frozen == {getattr(torch, dtype)}
    metrics = steps(trainer, range(STEPS))
    assert {p.dtype for p in trainer.policy.parameters() if p.requires_grad} == {torch.float32}
    saver = Checkpointer(folder / dtype, ranks, dtype=dtype, source=None, keep=2)
    saver.save(LearnerState(version=STEPS), trainer)
    saver.close()
    ranks.barrier()
    checkpoint = folder / dtype / f"step-{STEPS:08d}"
    resumed = make_sharded_trainer(cfg, ranks)
    fill_policy(resumed.policy, checkpoint)
    load_checkpoint(checkpoint, read_state(checkpoint), resumed, ranks)
    for each in (trainer, resumed):
        each.train(random_batch(STEPS))
    pairs = zip(trainer.policy.parameters(), resumed.policy.parameters(), strict=True)
    assert all(torch.equal(_local(a), _local(b)) for a, b in pairs), "a resumed run has the same bits"
    assert trainer.reference is not None
    trainer.reference.reset(trainer.policy)
    (samples,) = samples_under(cfg, random_batch(9))
    (micro, *_) = pack(samples, token_budget=40, layout=trainer.policy.layout, rank=ranks.rank, world_size=ranks.size)
    with torch.no_grad():
        both = trainer.policy.logprobs(micro)[0], trainer.reference.logprobs(micro)
    assert torch.equal(*both), "KL(policy, reference) is 0 right after a reset"
    found = {name: value.clone() for name, value in trainer.policy.full_parameters()}
    if ranks.first:
        numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
        save_file(found | numbers, folder / f"{dtype}.safetensors")
    leave_ranks()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
