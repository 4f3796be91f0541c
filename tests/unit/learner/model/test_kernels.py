"""The lean blocks against transformers' own, values and gradients in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.learner.model.kernels import _lean_rotation, _RMSNorm, install_kernels
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.support.batches import assert_same_gradient
from tests.support.tiny_model import make_tiny_model


def naive_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 4, 8)])
def test_norm_has_the_value_and_gradients_of_its_formula(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    weight = torch.randn(shape[-1], dtype=torch.float64, generator=generator)
    results = []
    for norm in (naive_norm, _RMSNorm.apply):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = norm(*inputs, 1e-3)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, grad)))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_rotation_has_the_value_and_gradients_of_transformers() -> None:
    generator = torch.Generator().manual_seed(1)
    angles = torch.randn(1, 6, 4, dtype=torch.float64, generator=generator).repeat(1, 1, 2)
    q, k = (torch.randn(1, 6, heads, 8, dtype=torch.float64, generator=generator) for heads in (4, 2))
    results = []
    for rotate in (apply_rotary_pos_emb, _lean_rotation(apply_rotary_pos_emb)):
        inputs = [part.clone().requires_grad_() for part in (q, k)]
        turned_q, turned_k = (part.transpose(1, 2) for part in inputs)
        outputs = rotate(turned_q, turned_k, angles.cos(), angles.sin())
        loss = (outputs[0].pow(3)).sum() + (outputs[1].pow(3)).sum()
        results.append((*(out.detach() for out in outputs), *torch.autograd.grad(loss, inputs)))
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_partial_rotation_is_left_to_the_original() -> None:
    called = []

    def original(q: torch.Tensor, k: torch.Tensor, *_: torch.Tensor, **__: int) -> tuple[torch.Tensor, torch.Tensor]:
        called.append(True)
        return q, k

    _lean_rotation(original)(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 2, 8), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    assert called


def test_a_model_with_lean_blocks_has_the_gradient_that_it_had(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=True)
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(2))
    gradients = []
    for lean in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder)
        state = torch.get_rng_state()
        if lean:
            replaced = install_kernels(model)
            assert len([name for name in replaced if "norm" in name]) == 9
        assert torch.equal(torch.get_rng_state(), state)
        model(input_ids=tokens).logits.log_softmax(-1)[..., 0].sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert_same_gradient(gradients[0], gradients[1], rel=1e-5)


def test_a_norm_of_another_formula_keeps_its_own() -> None:
    config = Gemma2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )  # Gemma multiplies by 1 + weight
    assert [name for name in install_kernels(Gemma2ForCausalLM(config)) if "norm" in name] == []
