"""Ranks that share the tokens of every micro-batch, real gloo ranks with FSDP2, against one plain rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.bench.tiny_families import FAMILIES, make_family_model
from prolong.learner.ranks import Ranks
from safetensors.torch import load_file
from transformers import Qwen3Config

from tests.support import context_script
from tests.support.batches import (
    assert_same_gradient,
    make_policy,
    make_trainer,
    mixed_batch,
    near_policy,
    small_config,
    unsettle,
    variant_config,
)
from tests.support.learner_process import fork_ranks
from tests.support.tiny_model import make_tiny_family

# (ranks, of which so many share each micro-batch, and so many a copy of the model): alone; beside another pair with a copy of
# its own; more ranks than key heads
LAYOUTS = [(2, 2, 2), (4, 2, 2), (4, 4, 4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
    )
    return make_tiny_family(tmp_path_factory.mktemp("model"), config)


@pytest.mark.parametrize(("ranks", "context", "shards"), LAYOUTS)
def test_ranks_that_share_micro_batches_have_the_loss_and_gradient_of_one(
    model: Path, tmp_path: Path, ranks: int, context: int, shards: int
) -> None:
    """With shared prompts, uneven lengths, a KL term, and losses that look at whole rollouts or batches."""
    names = ["varlen-m2po", "recompute-cispo", "bfloat16-gspo"] if ranks == 2 else ["gspo"]
    fork_ranks(context_script.run, model, tmp_path, context, shards, names, ranks=ranks, folder=tmp_path)
    for name in names:
        half = name.startswith("bfloat16")
        cfg = variant_config(model, name.rpartition("-")[2])
        trainer = make_trainer(cfg, dtype=torch.float32)
        unsettle(trainer)
        metrics = trainer.train(near_policy(mixed_batch(), make_policy(cfg)))
        stored = load_file(tmp_path / f"{name}.safetensors")
        own = {name: p.grad for name, p in trainer.policy.causal.named_parameters() if p.grad is not None}
        # in bfloat16 some tokens fall on the other side of the loss's bounds
        assert_same_gradient(list(own.values()), [stored[name] for name in own], rel=0.1 if half else 1e-5)
        for key in metrics:
            if not half and not key.endswith(("_s", "micro_batches")) and not key.startswith("perf/"):
                assert stored[key].item() == pytest.approx(metrics[key], rel=1e-5, abs=1e-6), (name, key)
    kept = [int(load_file(tmp_path / f"kept-{rank}.safetensors")["bytes"]) for rank in range(ranks)]
    alone = context_script.kept_bytes(model, make_policy(small_config(model), dtype=torch.float32), Ranks())
    # with more ranks than key heads, keys and values are repeated
    assert max(kept) < 1.3 * alone / context


@pytest.mark.parametrize("name", ["gpt-oss", "deepseek-v3"])
def test_sinks_windows_and_latent_attention_are_those_of_a_rank_alone(tmp_path: Path, name: str) -> None:
    make_family_model(FAMILIES[name], tmp_path / "model")
    fork_ranks(context_script.family, tmp_path / "model", ranks=2, folder=tmp_path)
