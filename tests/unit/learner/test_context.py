"""Dealing out a micro-batch to ranks that share it, without ranks. tests/integration/test_context_parallel.py has real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from prolong.common.errors import ConfigError, ModelError
from prolong.learner.batches.packing import PackingLayout, pack
from prolong.learner.context import ContextGroup
from prolong.learner.model.families import check_sharing
from prolong.learner.ranks import join_ranks
from torch import distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from tests.support.batches import make_policy, mixed_batch, samples_under, small_config
from tests.support.tiny_model import make_tiny_model


def groups(size: int) -> list[ContextGroup]:
    return [ContextGroup(rank, size, cast("dist.ProcessGroup", None)) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_token_and_target_belongs_to_one_rank_and_finds_its_way_back(tmp_path: Path, size: int) -> None:
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    for micro in pack(samples_under(cfg, mixed_batch())[0], token_budget=90, layout=PackingLayout.documents):
        shares = [share for group in groups(size) if (share := micro.shared(group).share) is not None]
        tokens = micro.input_ids.shape[1]
        for whole, parts in (
            (micro.input_ids, [share.input_ids for share in shares]),
            (micro.position_ids, [share.position_ids for share in shares]),
        ):
            assert {part.shape for part in parts} == {(1, -(-tokens // size))}
            assert torch.equal(torch.stack(parts, dim=-1).flatten()[:tokens], whole[0])
        assert len({(len(share.source), len(share.target), len(share.temperature)) for share in shares}) == 1
        targets, temperatures = (torch.cat([getattr(share, name) for share in shares]) for name in ("target", "temperature"))
        for share in shares:
            assert torch.equal(targets[share.place], micro.target)
            assert torch.equal(temperatures[share.place], micro.temperature)
        sources = torch.cat([share.source * size + rank for rank, share in enumerate(shares)])
        assert torch.equal(sources[shares[0].place], micro.source)


def test_ranks_have_about_as_many_targets_each(tmp_path: Path) -> None:
    """A prompt at the front would leave a rank without any, if ranks had runs of tokens."""
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    (micro,) = pack(samples_under(cfg, mixed_batch())[0], token_budget=10_000, layout=PackingLayout.documents)
    shares = [micro.shared(group).share for group in groups(4)]
    assert all(share is not None and len(share.source) <= 1.2 * len(micro.target) / 4 for share in shares)


def test_rows_cannot_be_shared(tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    (micro, *_) = pack(samples_under(cfg, mixed_batch())[0], token_budget=512, layout=PackingLayout.rows)
    with pytest.raises(AssertionError, match="only documents"):
        micro.shared(groups(2)[0])


def meta_model(config: PreTrainedConfig, attention: str = "documents") -> PreTrainedModel:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.config._attn_implementation = attention
    return model


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
}


@pytest.mark.parametrize(
    ("key_heads", "ranks", "fits"), [(4, 2, True), (4, 4, True), (2, 4, True), (3, 2, False), (4, 5, False)]
)
def test_ranks_have_equally_many_heads_or_the_model_is_refused(key_heads: int, ranks: int, fits: bool) -> None:
    model = meta_model(Qwen3Config(**SIZES, num_key_value_heads=key_heads, head_dim=8))
    if fits:
        check_sharing(model, ranks)
        return
    with pytest.raises(ModelError, match=f"context_parallel = {ranks}: .* 12 heads with {key_heads} key heads"):
        check_sharing(model, ranks)


def test_models_that_look_along_the_row_otherwise_are_refused() -> None:
    with pytest.raises(ModelError, match="its attention is 'eager'"):
        check_sharing(meta_model(MambaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1), "eager"), 2)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ModelError, match="longest position"):
        check_sharing(meta_model(LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=rope)), 2)


def test_a_policy_is_refused_when_it_is_built_not_in_its_first_step(tmp_path: Path) -> None:
    cfg = small_config(make_tiny_model(tmp_path, tied=True))
    cfg.model.attention = "sdpa"
    with pytest.raises(ModelError, match="its attention is 'sdpa'"):
        make_policy(cfg, sharing=2)


def test_the_number_of_ranks_must_be_a_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"learner\.context_parallel.*divisor of the number of ranks, 1"):
        join_ranks(starve_s=5.0, cuda=False, context_parallel=2)
