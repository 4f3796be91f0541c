"""A single rank: without torch.distributed in float32, with FSDP2 in bfloat16 (float32 masters)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prolong.common.config.choices import Offload
from prolong.common.errors import ConfigError
from prolong.common.logprobs import head_logprobs
from prolong.learner.batches.packing import PackingLayout, pack
from prolong.learner.main import load_policy
from prolong.learner.model import policy as policy_module
from prolong.learner.model.policy import Policy
from prolong.learner.model.reference import Reference
from prolong.learner.ranks import CONTROL_TIMEOUT_S, Ranks, join_ranks, leave_ranks, work_timeout_s
from prolong.learner.step import StepConfig, Trainer
from torch import distributed as dist
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule

from tests.support.batches import make_policy, mixed_batch, random_batch, samples_under, small_config
from tests.support.forks import Fork
from tests.support.rank_meeting import meet
from tests.support.runs import free_port
from tests.support.tiny_model import make_tiny_model

CPU = torch.device("cpu")


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


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, about itself
def test_a_step_is_the_same_to_the_bit_wherever_the_shards_live(alone: Ranks, tmp_path: Path) -> None:
    """On a CPU both places are the same memory: what is shown is that gradients, clipping and AdamW take that path."""
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=True))
    cfg.model.dtype, cfg.learner.grad_clip = "bfloat16", 0.1
    after = []
    for offload in (Offload.none, Offload.reference, Offload.all):
        cfg.learner.offload = offload
        policy, frozen = (load_policy(cfg.model, cfg.learner, alone, CPU, trainable=t) for t in (True, False))
        offloaded = [isinstance(rest_of(each).offload_policy, CPUOffloadPolicy) for each in (policy, frozen)]
        assert offloaded == [offload is Offload.all, offload is not Offload.none]
        Trainer(StepConfig.of(cfg), policy, Reference(frozen), alone, CPU).train(random_batch(0))
        after.append(dict(policy.full_parameters()))
    for name, parameter in after[0].items():
        assert torch.equal(parameter, after[1][name])
        assert torch.equal(parameter, after[2][name])


def rest_of(policy: Policy) -> Any:
    """FSDP2's group of the parameters that belong to no layer."""
    assert isinstance(policy, FSDPModule)
    (group,) = policy._get_fsdp_state()._fsdp_param_groups
    return group


def test_deadlines_grow_with_what_a_rank_has_to_save_and_publish() -> None:
    assert work_timeout_s(0, 4) == CONTROL_TIMEOUT_S
    # 16 bytes of 7.6 billion parameters on 4 ranks, and 4 bytes of all of them, at 100 MB/s
    assert work_timeout_s(7_600_000_000, 4) == pytest.approx(120 + 76 * (4 + 4))


def test_groups_of_ranks_must_be_equally_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"learner\.shard_ranks = 3: expected a divisor of the number of ranks, 8"):
        join_ranks(starve_s=5.0, cuda=False, shard_ranks=3)


def test_what_is_not_sharded_cannot_live_on_the_host(tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=True))
    cfg.learner.offload = Offload.reference
    load_policy(cfg.model, cfg.learner, Ranks(), CPU)
    with pytest.raises(ConfigError, match=r"learner\.offload = 'reference': expected none with a single rank in float32"):
        load_policy(cfg.model, cfg.learner, Ranks(), CPU, trainable=False)


def test_each_start_of_ranks_on_several_nodes_meets_in_a_store_of_its_own(tmp_path: Path) -> None:
    """c10d's first node keeps it, here that of rank 1; the second start, at the same address, finds nothing of the first."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    meeting["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for start in range(2):
        ranks = [
            Fork(meet, log=tmp_path / f"{start}-{rank}", env=meeting | {"RANK": rank, "GROUP_RANK": group_rank}).start()
            for rank, group_rank in (("0", "1"), ("1", "0"))
        ]
        assert [rank.communicate(200)[1].splitlines()[-1:] for rank in ranks] == [["0 False"], ["1 False"]]
        assert [rank.returncode for rank in ranks] == [0, 0]
