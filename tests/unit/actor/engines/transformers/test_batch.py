"""Rows that join, leave and are recomputed in a running batch, against each row generated alone without a cache."""

from __future__ import annotations

import pytest
import torch
from prolong.actor.engines.transformers import batch as batch_module
from prolong.actor.engines.transformers.batch import Row, RunningBatch
from prolong.common.types import FinishReason
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny_model import make_tiny_model, randomize

EOS = 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp("batch") / "model", tied=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


def greedy_row(prompt: list[int], max_tokens: int, stream: int = 0) -> Row:
    return Row(stream=stream, index=0, seed=0, temperature=0.0, max_tokens=max_tokens, prompt=prompt)


def alone(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    """The greedy completion, every token by a forward pass over all tokens before it."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + max_tokens and (len(ids) == len(prompt) or ids[-1] != EOS):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_rows_of_different_lengths_join_and_leave_without_disturbing_each_other(model: PreTrainedModel):
    batch, ended = RunningBatch(model, [EOS]), []
    schedule = {0: [([5], 12), ([3, 4, 12, 5, 16], 30)], 3: [([7] * 20, 4), ([9, 8], 25)], 9: [([3, 4, 12, 5, 16], 6)]}
    for step in range(60):
        if step in schedule:
            batch.add([greedy_row(prompt, max_tokens) for prompt, max_tokens in schedule[step]])
        if batch.rows:
            ended += batch.step(version=0)
    assert len(ended) == 5
    for row in ended:
        assert row.token_ids == alone(model, row.prompt, row.max_tokens), row.prompt
        stopped = row.token_ids[-1] == EOS
        assert row.finish_reason is (FinishReason.stop if stopped else FinishReason.length)


def test_rows_that_are_dropped_leave_the_others_as_they_are(model: PreTrainedModel):
    batch = RunningBatch(model, [])
    batch.add([greedy_row([3] * 30, 50, stream=1), greedy_row([4, 5], 10, stream=2)])
    for _ in range(4):
        batch.step(version=0)
    batch.keep(lambda row: row.stream != 1)
    ended: list[Row] = []
    while not ended:
        ended = batch.step(version=0)
    assert ended[0].token_ids == alone(model, [4, 5], 10)
    assert not batch.rows


def test_after_new_weights_a_recomputed_cache_continues_as_if_they_had_always_been_there(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch_module, "FILL_TOKENS", 20)  # several passes
    batch = RunningBatch(model, [])
    batch.add([greedy_row([3, 4, 12], 16), greedy_row([6] * 9, 16)])
    for _ in range(8):
        batch.step(version=4)
    before = [list(row.token_ids) for row in batch.rows]
    randomize(model, 99)
    batch.recompute()
    ended: list[Row] = []
    while len(ended) < 2:
        ended += batch.step(version=5)
    for row, old_tokens in zip(ended, before, strict=True):
        assert row.token_ids[:8] == old_tokens
        assert row.token_ids[8:] == alone(model, row.prompt + old_tokens, 8)
        assert row.starts == [(4, 0), (5, 8)]
