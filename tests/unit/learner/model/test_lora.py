"""Adapters against the full model that they make: same numbers, and gradients that are projections of its gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.common.adapters import BASE, DOWN, SCALE, UP, is_adapter_update
from prolong.common.config.sections import Config, LoraConfig
from prolong.common.errors import ConfigError
from prolong.common.models import published_tensors
from prolong.common.weights.buckets import plan_buckets
from prolong.learner.model.lora import adapted_layers, add_adapters
from prolong.learner.step import Trainer
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config, Qwen3MoeConfig

from tests.support.batches import make_policy, make_trainer, mixed_batch, near_policy, small_config
from tests.support.tiny_model import family_settings, make_tiny_family, make_tiny_model

RANK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def adapted_config(folder: Path, **lora: object) -> Config:
    cfg = small_config(folder)
    cfg.model.lora = {"rank": RANK, "alpha": 6.0, **lora}
    return cfg


@torch.no_grad()
def stir(trainer: Trainer, seed: int = 0) -> None:
    """Move the adapters away from where they began."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in adapted_layers(trainer.policy.causal):
        for name in (DOWN, UP):
            parameter = layer.get_parameter(name)
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def merged(trainer: Trainer) -> dict[str, Tensor]:
    """The weights of the full model, the formula written out once more."""
    weights = {name: value.clone() for name, value in trainer.policy.causal.named_parameters() if "lora" not in name}
    for name, layer in adapted_layers(trainer.policy.causal):
        down, up = layer.get_parameter(DOWN), layer.get_parameter(UP)
        weights[f"{name}.weight"] += layer.scale * up @ down
    return weights


def test_at_the_beginning_the_policy_is_the_base(folder: Path) -> None:
    trainer, plain = make_trainer(adapted_config(folder)), make_trainer(small_config(folder))
    batch = near_policy(mixed_batch(), make_policy(small_config(folder)))
    ours, theirs = trainer.train(batch), plain.train(batch)
    assert ours["learner/loss"] == pytest.approx(theirs["learner/loss"], rel=1e-12)
    assert ours["reference/kl"] == 0.0


def test_loss_kl_and_gradients_are_those_of_the_merged_model(folder: Path) -> None:
    cfg = adapted_config(folder)
    cfg.learner.lr = 1e-30
    trainer, plain = make_trainer(cfg), make_trainer(small_config(folder))
    stir(trainer)
    plain.policy.copy_parameters(merged(trainer))
    batch = near_policy(mixed_batch(), plain.policy)
    ours, theirs = trainer.train(batch), plain.train(batch)
    assert ours["reference/kl"] > 1e-3
    # of the gradient the projections are compared
    apart = ("_s", "/lr", "/grad_norm")
    numbers = {name: number for name, number in theirs.items() if not name.endswith(apart) and not name.startswith("perf/")}
    assert {name: ours[name] for name in numbers} == pytest.approx(numbers, rel=1e-10, nan_ok=True)
    assert len(numbers) > 20
    gradients = {name: value.grad for name, value in plain.policy.causal.named_parameters()}
    for name, layer in adapted_layers(trainer.policy.causal):
        whole = gradients[f"{name}.weight"]
        assert whole is not None
        down, up = layer.get_parameter(DOWN), layer.get_parameter(UP)
        torch.testing.assert_close(down.grad, layer.scale * up.T @ whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(up.grad, layer.scale * whole @ down.T, rtol=1e-9, atol=1e-12)


def test_a_step_changes_the_adapters_and_nothing_else(folder: Path) -> None:
    trainer = make_trainer(adapted_config(folder))
    before = {name: value.clone() for name, value in trainer.policy.causal.named_parameters()}
    trainer.train(mixed_batch())
    changed = {name for name, value in trainer.policy.causal.named_parameters() if not torch.equal(value, before[name])}
    # with B = 0 the gradient of A is zero, but its weight decay is not
    assert changed == {name for name in before if name.endswith((f".{DOWN}", f".{UP}")) and "reference" not in name}
    assert len(changed) == 2 * 2 * 7  # factors, layers, linear layers of each


def test_a_reset_makes_the_reference_the_policy_and_keeps_it_there(folder: Path) -> None:
    trainer, plain = make_trainer(adapted_config(folder)), make_trainer(small_config(folder))
    stir(trainer)
    assert trainer.reference is not None
    assert plain.reference is not None
    trainer.reference.reset(trainer.policy)
    plain.reference.policy.copy_parameters(merged(trainer))
    batch = near_policy(mixed_batch(), make_policy(small_config(folder)))
    assert trainer.train(batch)["reference/kl"] == 0.0
    stir(trainer, seed=1)
    plain.policy.copy_parameters(merged(trainer))
    kl = trainer.train(batch)["reference/kl"]
    assert kl > 1e-3
    assert kl == pytest.approx(plain.train(batch)["reference/kl"], rel=1e-10)


def test_an_update_holds_the_adapters_and_what_tells_their_base(folder: Path) -> None:
    policy, full = make_policy(adapted_config(folder)), make_policy(small_config(folder))
    shapes = {name: (dtype, list(shape)) for name, dtype, shape in policy.full_shapes(torch.bfloat16)}
    assert is_adapter_update(shapes)
    assert not is_adapter_update(name for name, _, _ in full.full_shapes(torch.bfloat16))
    assert shapes.pop(BASE) == (torch.int64, [2])
    assert shapes.pop(SCALE) == (torch.int64, [1])
    assert shapes["model.layers.0.self_attn.q_proj.lora_A"] == (torch.bfloat16, [RANK, 64])
    assert shapes["model.layers.1.mlp.down_proj.lora_B"] == (torch.bfloat16, [64, RANK])
    assert len(shapes) == 28
    assert [name for name, _ in policy.full_parameters()] == [*shapes, BASE, SCALE]


def test_an_update_of_a_large_model_is_half_a_hundredth_of_it() -> None:
    """The shape of Qwen3-8B, from its configuration alone."""
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(config)

    def num_bytes() -> int:
        tensors = published_tensors(causal)
        shapes = [(name, torch.bfloat16 if value.is_floating_point() else value.dtype, value.shape) for name, value in tensors]
        return sum(bucket.num_bytes for bucket in plan_buckets(shapes, 1 << 28).buckets)

    full = num_bytes()
    add_adapters(causal, LoraConfig(rank=16), (0, 0))
    assert (full, num_bytes()) == (16_381_470_720, 87_293_984)


def test_targets_choose_the_layers(folder: Path) -> None:
    policy = make_policy(adapted_config(folder, targets=["q_proj", "mlp.up_proj"]))
    assert [name for name, _ in adapted_layers(policy.causal)] == [
        f"model.layers.{i}.{leaf}" for i in (0, 1) for leaf in ("self_attn.q_proj", "mlp.up_proj")
    ]


KNOWN = "names of linear layers of this model: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("attn.q_proj", ""),
        ("proj", ""),
        ("lm_head", "; the head has none, because it is computed apart from the layers, and may be the embedding"),
    ],
)
def test_targets_that_cannot_have_adapters_are_refused_with_the_names_there_are(folder: Path, target: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_policy(adapted_config(folder, targets=["q_proj", target]))
    assert str(caught.value) == f"model.lora.targets = '{target}': expected {KNOWN}{reason}"


def test_fused_experts_have_no_adapters_but_their_attention_has(tmp_path: Path) -> None:
    settings = family_settings(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=32)
    moe = make_tiny_family(tmp_path, Qwen3MoeConfig(**settings))
    assert len(list(adapted_layers(make_policy(adapted_config(moe)).causal))) == 8
    with pytest.raises(ConfigError, match=r"gate_up_proj'.*o_proj.*; experts that lie in one tensor have none"):
        make_policy(adapted_config(moe, targets=["gate_up_proj"]))


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=64, n_embd=64, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    with pytest.raises(ConfigError, match=r"model.lora.targets = \[\]: expected names of linear layers.*: it has none"):
        make_policy(adapted_config(make_tiny_family(tmp_path, config)))


def test_adapters_begin_the_same_on_every_rank_and_differ_by_seed_and_layer(folder: Path) -> None:
    def downs(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [layer.get_parameter(DOWN) for _, layer in adapted_layers(make_policy(adapted_config(folder)).causal)]

    first, again, other = downs(1), downs(1), downs(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[7])
