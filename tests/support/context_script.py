"""One rank of tests/integration/test_context_parallel.py: ranks that share micro-batches, under FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from prolong.common.config.choices import Recompute
from prolong.learner.batches.packing import pack
from prolong.learner.model.policy import Policy
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from safetensors.torch import save_file
from torch import Tensor

from tests.support.batches import (
    assert_same_gradient,
    make_policy,
    mixed_batch,
    near_policy,
    random_batch,
    samples_under,
    small_config,
    variant_config,
)
from tests.support.rank_script import make_sharded, save_gradients
from tests.support.varlen import use_varlen


def run(model: Path, folder: Path, context: int, shards: int, names: list[str]) -> None:
    """One step of each of the named VARIANTS, and then a long micro-batch.

    shards: ranks that share one copy of the model. Before a name may stand varlen (the way that a GPU takes), recompute or
    bfloat16.
    """
    torch.set_num_threads(1)
    ranks = join_ranks(starve_s=30.0, cuda=False, shard_ranks=shards, context_parallel=context)
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            if name.startswith("varlen"):
                use_varlen(patch)
            step(model, folder / f"{name}.safetensors", name, ranks)
    cfg = small_config(model)
    policy = make_policy(cfg, shard=True, mesh=ranks.mesh, dtype=torch.float32)
    save_file({"bytes": torch.tensor(kept_bytes(model, policy, ranks))}, folder / f"kept-{ranks.rank}.safetensors")
    leave_ranks()


def step(model: Path, path: Path, name: str, ranks: Ranks) -> None:
    """One step on a mixed batch near the policy, the reference away from it."""
    how, _, variant = name.rpartition("-")
    cfg = variant_config(model, variant)
    batch = near_policy(mixed_batch(), make_policy(cfg))
    cfg.learner.recompute = Recompute.true if how == "recompute" else Recompute.false
    cfg.model.dtype = "bfloat16" if how == "bfloat16" else "float32"
    trainer = make_sharded(cfg, ranks)
    unsettle_all(trainer.reference.policy if trainer.reference else None)
    trainer.entropy_coefficient = 0.01 if cfg.objective.entropy_target else 0.0
    save_gradients(trainer, trainer.train(batch), path)


@torch.no_grad()
def unsettle_all(policy: Policy | None) -> None:
    for parameter in policy.parameters() if policy else ():
        parameter.mul_(1.05)


def kept_bytes(model: Path, policy: Policy, ranks: Ranks) -> int:
    """What the forward pass of one micro-batch of long documents keeps on this rank for its backward pass."""
    cfg = small_config(model)
    (samples,) = samples_under(cfg, random_batch(0, groups=1, n=2, longest=400))
    (micro,) = pack(samples, token_budget=100_000, layout=policy.layout)
    if ranks.context is not None:
        micro = micro.shared(ranks.context)
    with counting() as counted:
        policy.logprobs(micro)
    return sum(counted.values())


@contextmanager
def counting() -> Iterator[dict[int, int]]:
    """Bytes of the storages that autograd keeps, but for parameters: those are wide, and no storage of an activation is."""
    counted: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            counted[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield counted


def family(model: Path) -> None:
    """Log-probabilities and gradient of a policy, whose micro-batch two ranks share, against those of each rank alone."""
    torch.set_num_threads(1)
    ranks = join_ranks(starve_s=30.0, cuda=False, context_parallel=2)
    assert ranks.context is not None
    cfg = small_config(model)
    policy = make_policy(cfg, sharing=2, dtype=torch.float32)
    (micro,) = pack(
        samples_under(cfg, random_batch(0, groups=2, n=3, longest=60))[0], token_budget=10_000, layout=policy.layout
    )
    results = []
    for each in (micro, micro.shared(ranks.context)):
        policy.zero_grad()
        logprobs, _ = policy.logprobs(each)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        results.append((logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]))
    (alone, gradient), (shared, part) = results
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)
    assert_same_gradient(gradient, [ranks.sum_(each) for each in part], rel=1e-5)
    leave_ranks()
