"""Checkpoints of a run with adapters: small, resumable to the bit, bound to their base, and readable for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prolong.common.config.sections import Config
from prolong.common.errors import ModelError
from prolong.common.model_folder import folder_refusal
from prolong.learner.checkpoints.checkpoint import (
    LearnerState,
    checkpoint_path,
    fill_policy,
    load_checkpoint,
    read_state,
)
from prolong.learner.checkpoints.export import export_checkpoint
from prolong.learner.checkpoints.saver import Checkpointer
from prolong.learner.ranks import Ranks
from prolong.learner.step import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.batches import make_policy, make_trainer, random_batch, small_config
from tests.support.tiny_model import make_tiny_model

RANK, ALPHA = 4, 6.0


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = small_config(make_tiny_model(tmp_path / "model", tied=True))
    cfg.model.lora = {"rank": RANK, "alpha": ALPHA, "targets": ["q_proj", "down_proj"]}
    return cfg


def steps(trainer: Trainer, versions: range) -> None:
    """Train, with a reset of the reference after version 1."""
    for version in versions:
        trainer.train(random_batch(version))
        if version == 1:
            assert trainer.reference is not None
            trainer.reference.reset(trainer.policy)


def numbers(trainer: Trainer) -> list[Tensor]:
    """Every tensor that the next step depends on."""
    moments = [value for p in trainer.policy.parameters() for _, value in sorted(trainer.optimizer.state.get(p, {}).items())]
    return [tensor.detach().clone() for tensor in [*trainer.policy.parameters(), *moments, torch.get_rng_state()]]


def save(trainer: Trainer, folder: Path, dtype: str = "float32") -> Path:
    source = Path(str(trainer.policy.causal.config.name_or_path))
    saver = Checkpointer(folder, Ranks(), dtype=dtype, source=source, keep=2)
    saver.save(LearnerState(version=3), trainer)
    saver.close()
    return checkpoint_path(folder, 3)


def resumed(cfg: Config, checkpoint: Path) -> Trainer:
    """As `Learner` does: the base, and what is trained, before it is published, from the checkpoint."""
    trainer = make_trainer(cfg, dtype=torch.float32)
    fill_policy(trainer.policy, checkpoint)
    load_checkpoint(checkpoint, read_state(checkpoint), trainer, Ranks())
    return trainer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_learner_arrives_at_the_same_adapters_to_the_bit(cfg: Config, tmp_path: Path, dtype: str) -> None:
    torch.manual_seed(7)
    whole = make_trainer(cfg, dtype=torch.float32)
    steps(whole, range(3))
    checkpoint = save(whole, tmp_path / "checkpoints", dtype)
    middle = numbers(whole)
    torch.manual_seed(8)
    again = resumed(cfg, checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(numbers(again), middle, strict=True))
    steps(whole, range(3, 5))
    steps(again, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(numbers(again), numbers(whole), strict=True))
    assert again.reference is not None
    assert again.reference.epoch == 1


def test_a_checkpoint_holds_no_copy_of_the_base(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    checkpoint = save(trainer, tmp_path / "checkpoints")
    assert not (checkpoint / "model.safetensors").exists()
    stored = [name for path in checkpoint.glob("*.safetensors") for name in load_file(path)]
    assert stored
    assert all("lora" in name or name.startswith("rng/") for name in stored)


def test_adapters_are_stored_as_peft_reads_them(cfg: Config, tmp_path: Path) -> None:
    """Applied by its rule to the base, they give the policy."""
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    checkpoint = save(trainer, tmp_path / "checkpoints")
    settings = json.loads((checkpoint / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"], settings["bias"]) == ("LORA", RANK, ALPHA, "none")
    assert settings["base_model_name_or_path"] == cfg.model.path
    adapters = load_file(checkpoint / "adapter_model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(cfg.model.path, dtype=torch.float32)
    with torch.no_grad():
        for target in settings["target_modules"]:
            down, up = (adapters.pop(f"base_model.model.{target}.lora_{each}.weight") for each in "AB")
            model.get_submodule(target).weight += settings["lora_alpha"] / settings["r"] * up @ down
        assert adapters == {}
        tokens = torch.tensor([[3, 4, 12, 5, 16]])
        trainer.policy.causal.set_attn_implementation("sdpa")
        torch.testing.assert_close(model(tokens).logits, trainer.policy.causal(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_is_the_base_merged_with_the_adapters(cfg: Config, tmp_path: Path, dtype: str) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    trainer.train(random_batch(0))
    checkpoint = save(trainer, tmp_path / "checkpoints", dtype)
    assert "prolong export" in folder_refusal(checkpoint)
    out = tmp_path / "out"
    export_checkpoint(checkpoint, out, dtype=None)
    assert folder_refusal(out) == ""
    assert not (out / "adapter_config.json").exists()
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype is getattr(torch, dtype)
    base: Any = AutoModelForCausalLM.from_pretrained(cfg.model.path, dtype=torch.float32)
    layer = trainer.policy.causal.get_submodule("model.layers.1.mlp.down_proj")
    up, down = layer.get_parameter("lora_B").detach(), layer.get_parameter("lora_A").detach()
    expected = base.get_parameter("model.layers.1.mlp.down_proj.weight").detach() + ALPHA / RANK * up @ down
    merged, tolerance = model.get_submodule("model.layers.1.mlp.down_proj").weight, 1e-6 if dtype == "float32" else 1e-2
    torch.testing.assert_close(merged.float(), expected, rtol=tolerance, atol=tolerance)


def test_adapters_of_another_base_are_neither_resumed_nor_exported(cfg: Config, tmp_path: Path) -> None:
    checkpoint = save(make_trainer(cfg, dtype=torch.float32), tmp_path / "checkpoints")
    weights = load_file(Path(cfg.model.path) / "model.safetensors")
    save_file({name: 1.01 * tensor for name, tensor in weights.items()}, Path(cfg.model.path) / "model.safetensors")
    with pytest.raises(ModelError, match="give it the model that the run began with"):
        fill_policy(make_policy(cfg), checkpoint)
    with pytest.raises(ModelError, match="other weights than the model whose adapters the learner trains"):
        export_checkpoint(checkpoint, tmp_path / "out", dtype=None)


def test_adapters_of_another_scale_are_not_resumed(cfg: Config, tmp_path: Path) -> None:
    """An engine would merge them by the number in the checkpoint, the learner by its settings."""
    checkpoint = save(make_trainer(cfg, dtype=torch.float32), tmp_path / "checkpoints")
    cfg.model.lora["alpha"] = 5.0
    with pytest.raises(ModelError, match=r"another alpha / rank than model\.lora"):
        fill_policy(make_policy(cfg), checkpoint)


def test_a_copy_of_the_base_in_another_place_and_in_shards_is_the_same_base(cfg: Config, tmp_path: Path) -> None:
    trainer = make_trainer(cfg, dtype=torch.float32)
    checkpoint = save(trainer, tmp_path / "checkpoints")
    moved = tmp_path / "moved"
    AutoModelForCausalLM.from_pretrained(cfg.model.path).save_pretrained(moved, max_shard_size="100KB")
    assert len(list(moved.glob("model-*.safetensors"))) > 1
    cfg.model.path = str(moved)
    fill_policy(make_policy(cfg), checkpoint)
