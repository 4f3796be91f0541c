"""The operations of a whole step in bfloat16: products of matrices, and what is computed of the distributions."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prolong.common import half_head
from prolong.learner.model.policy import Policy
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.support.batches import make_policy, random_batch, small_config
from tests.support.tiny_model import make_tiny_model

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


@pytest.fixture
def alone() -> Iterator[Ranks]:
    yield join_ranks(starve_s=5.0, cuda=False, always=True)
    leave_ranks()


class StepOperations(TorchDispatchMode):
    """Counts products by type of their operands, and in frozen forwards the exponentials of whole distributions."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab
        self.products: Counter[torch.dtype] = Counter()
        # whether the forward under way has no gradient
        self.frozen = False
        self.exponentials: Counter[bool] = Counter()
        self.normalizers: Counter[bool] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in args if isinstance(value, Tensor)]
        # positions times frequencies is a product with an inner dimension of 1, in float32 for good reason
        if func.overloadpacket in PRODUCTS and tensors[-1].shape[-2] > 1:
            self.products[tensors[-1].dtype] += 1
        if tensors and tensors[0].dim() == 2 and tensors[0].shape[1] == self.vocab:
            self.exponentials[self.frozen] += func.overloadpacket in (torch.ops.aten.exp, torch.ops.aten.xlogy)
            self.normalizers[self.frozen] += func.overloadpacket is torch.ops.aten.logsumexp
        return func(*args, **(kwargs or {}))

    def watch(self, policy: Policy) -> None:
        """Note for every forward of this policy whether it is frozen."""
        original = policy.logprobs

        def noting(*args: Any, **named: Any) -> Any:
            self.frozen = not torch.is_grad_enabled()
            return original(*args, **named)

        policy.logprobs = noting


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_a_step_in_bfloat16_has_no_float32_product_and_frozen_forwards_have_no_entropy(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=False))
    cfg.model.dtype, cfg.learner.minibatches, cfg.objective.kl_beta = "bfloat16", 2, 0.1
    policy, frozen = (make_policy(cfg, trainable=t, shard=True, dtype=torch.float32) for t in (True, False))
    heads: list[torch.dtype] = []

    def on_tensor_cores(left: Tensor, right: Tensor) -> Tensor:
        """A GPU multiplies the operands as they are; a CPU, which converts them, does so unseen."""
        heads.append(left.dtype)
        with _disable_current_modes():
            return left.float() @ right.float()

    monkeypatch.setattr(half_head, "head_product", on_tensor_cores)
    trainer = Trainer(StepConfig.of(cfg), policy, Reference(frozen), alone, torch.device("cpu"))
    operations = StepOperations(policy.causal.config.vocab_size)
    operations.watch(policy)
    operations.watch(frozen)
    with operations:
        trainer.train(random_batch(0, groups=4))
    assert set(heads) == {torch.bfloat16}
    assert set(operations.products) == {torch.bfloat16}
    # of the reference and of the proximal policy
    assert operations.normalizers[True] > 0
    assert operations.exponentials[True] == 0, "an entropy that nobody reads"
    assert operations.exponentials[False] > 0
