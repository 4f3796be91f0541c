"""A single rank: without torch.distributed in float32, with FSDP2 in bfloat16 (float32 masters)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prolong.common.logprobs import head_logprobs
from prolong.learner.batches.packing import PackingLayout, pack
from prolong.learner.model import policy as policy_module
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import Ranks, join_ranks, leave_ranks
from prolong.learner.step import StepConfig, Trainer
from torch import distributed as dist

from tests.support.batches import make_policy, mixed_batch, random_batch, samples_under, small_config
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def alone() -> Iterator[Ranks]:
    yield join_ranks(starve_s=5.0, cuda=False, always=True)
    leave_ranks()


def test_one_float32_rank_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = join_ranks(starve_s=5.0, cuda=False)
    assert not dist.is_initialized()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.broadcast_bytes(b"batch") == b"batch"
    values = torch.tensor([1.0, 2.0])
    assert ranks.sum_(values).tolist() == [1.0, 2.0]
    assert ranks.gather(values) == [values]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_bfloat16_computes_in_bfloat16_keeps_float32_masters_and_gives_float32_logprobs(alone: Ranks, tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=False))
    exact = make_policy(cfg, dtype=torch.float32)
    cfg.model.dtype = "bfloat16"
    policy, frozen = (make_policy(cfg, trainable=t, shard=True, dtype=torch.float32) for t in (True, False))
    (micro,) = pack(samples_under(cfg, random_batch(0))[0], token_budget=10_000, layout=PackingLayout.documents)
    with torch.no_grad():
        rounded, sharp = policy.logprobs(micro)[0], exact.logprobs(micro)[0]
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - sharp).abs().max() < 0.3
    trainer = Trainer(StepConfig.of(cfg), policy, Reference(frozen), alone, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in policy.full_parameters()}
    metrics = trainer.train(random_batch(0))
    assert metrics["reference/kl"] == 0.0
    after = dict(policy.full_parameters())
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert {tensor.dtype for _, tensor in policy.full_parameters(torch.bfloat16)} == {torch.bfloat16}
    moved = (after["model.norm.weight"] - before["model.norm.weight"]).abs().max()
    assert 0 < moved <= 1.1e-3 * 1.01  # one step of AdamW at lr 1e-3 (and decay), far below bfloat16's resolution at 1


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_temperatures_are_not_rounded_to_bfloat16_on_their_way_to_the_head(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 would cast the inputs of the model as a whole too; bfloat16 has no 1.2."""
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=False))
    cfg.model.dtype = "bfloat16"
    policy = make_policy(cfg, shard=True, dtype=torch.float32)
    arrived: list[tuple[torch.dtype, torch.Tensor]] = []

    def recording(hidden: torch.Tensor, *args: Any, temperature: torch.Tensor, **named: Any) -> Any:
        arrived.append((hidden.dtype, temperature))
        return head_logprobs(hidden, *args, temperature=temperature, **named)

    monkeypatch.setattr(policy_module, "head_logprobs", recording)
    (micro,) = pack(samples_under(cfg, mixed_batch())[0], token_budget=10_000, layout=PackingLayout.documents)
    policy.logprobs(micro)
    ((dtype, temperature),) = arrived
    assert dtype == torch.bfloat16
    assert set(temperature.tolist()) == {np.float32(1.2), np.float32(0.8), 1.0}
