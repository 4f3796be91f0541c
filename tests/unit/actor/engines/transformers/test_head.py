"""A model in bfloat16 samples with float32 logits, as the learner computes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prolong.actor.engines.transformers.head import widen_head
from prolong.common.config.sections import ModelConfig
from prolong.common.logprobs import head_logprobs
from prolong.common.models import load_model, published_tensors

from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path, tied=True)


def test_log_probabilities_in_bfloat16_agree_with_the_learners_far_better_with_a_wide_head(folder: Path) -> None:
    policy = load_model(ModelConfig(path=str(folder)), dtype=torch.bfloat16, attention="sdpa")
    names = [name for name, _ in published_tensors(policy)]
    ids = torch.randint(2, 64, (8, 40), generator=torch.Generator().manual_seed(0))

    def logprobs() -> torch.Tensor:
        with torch.no_grad():
            table = policy(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
        return table.gather(-1, ids[:, 1:, None]).flatten()

    narrow = logprobs()
    widen_head(policy)
    wide = logprobs()
    with torch.no_grad():
        states = policy.base_model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
    head = policy.get_parameter("model.embed_tokens.weight").detach()  # tied
    learners, _ = head_logprobs(states, head, None, ids[:, 1:].flatten(), temperature=torch.ones(len(states)), chunk=1024)
    assert (wide - learners).abs().mean() < 1e-5
    assert (narrow - learners).abs().mean() > 1e-3
    assert [name for name, _ in published_tensors(policy)] == names


def test_a_float32_head_is_left_alone(folder: Path) -> None:
    policy = load_model(ModelConfig(path=str(folder)), dtype=torch.float32, attention="sdpa")
    widen_head(policy)
    assert "forward" not in vars(policy.get_output_embeddings())
