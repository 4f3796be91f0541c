"""Runs in lockstep: what they sample, how stale their batches are, and that watching a loss does not change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from prolong.actor.engines.transformers.batch import Row, RunningBatch
from prolong.bench.lockstep import LockstepRun, task_prompts
from prolong.bench.quick_decoder import QuickDecoder, QuickRow
from prolong.bench.staleness import TASKS, Cell, overrides_of, use_by_length
from prolong.common.config.sections import Config
from prolong.common.errors import ModelError
from prolong.common.models import load_model
from prolong.common.tokenizer import Tokenizer
from prolong.common.types import int32_array, rollout_seed
from prolong.launch.demo.bootstrap import fill_demo_folder
from prolong.launch.recipes import compose


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    fill_demo_folder(folder)
    return folder


def config(model: Path, cell: Cell, *overrides: str) -> Config:
    small = ["run.steps=5", "buffer.batch_groups=2", "sampling.n=4", "validation.n=1"]
    return compose("demo", [*overrides_of(cell, model), *small, *overrides])


def run_of(model: Path, cell: Cell, *overrides: str) -> LockstepRun:
    cfg, tokenizer = config(model, cell, *overrides), Tokenizer.load(str(model))
    prompts = task_prompts(model / "heldout.jsonl", TASKS[cell.task], cfg, tokenizer)
    return LockstepRun(cfg, prompts[:40], prompts[:4], tokenizer)


def test_the_quick_decoder_samples_what_the_transformers_engine_samples(model: Path) -> None:
    cfg, tokenizer = config(model, Cell("lists", 5e-4, 0, "on_policy", 0)), Tokenizer.load(str(model))
    prompts = task_prompts(model / "heldout.jsonl", ("math/digit_sum", "logic/number_sorting"), cfg, tokenizer)[::8]
    assert len({len(prompt.token_ids) for prompt in prompts}) > 1, "prompts of several lengths"
    causal = load_model(cfg.model, dtype=torch.float32, attention="sdpa")
    ids = [int32_array(prompt.token_ids).tolist() for prompt in prompts for _ in range(4)]
    seeds, degrees = [rollout_seed(3, i) for i in range(len(ids))], [1.0 + (i % 3) / 4 for i in range(len(ids))]
    expected = [
        Row(stream=0, index=0, seed=seed, temperature=degree, max_tokens=12 + seed % 13, prompt=prompt)
        for prompt, seed, degree in zip(ids, seeds, degrees, strict=True)
    ]
    batch = RunningBatch(causal, tokenizer.eos_ids)
    batch.add(expected)
    while batch.rows:
        batch.step(0)
    rows = [QuickRow(prompt=r.prompt, seed=r.seed, temperature=r.temperature, max_tokens=r.max_tokens) for r in expected]
    QuickDecoder(causal, tokenizer.eos_ids, 128).decode(rows)
    assert [row.token_ids for row in rows] == [row.token_ids for row in expected]
    assert [row.finish_reason for row in rows] == [row.finish_reason for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row.logprobs, other.logprobs, atol=2e-4)


def test_the_quick_decoder_refuses_what_it_does_not_compute(model: Path) -> None:
    cfg = config(model, Cell("sums", 5e-4, 0, "on_policy", 0))
    causal = load_model(cfg.model, dtype=torch.float32, attention="sdpa")
    causal.config.rope_parameters["rope_type"] = "yarn"
    with pytest.raises(ModelError, match="knows Qwen3 in float32 alone"):
        QuickDecoder(causal, [1], 128)


@pytest.mark.parametrize("eta", [0, 1, 3])
def test_every_batch_is_as_stale_as_the_bound_allows(model: Path, eta: int) -> None:
    result = run_of(model, Cell("sums", 5e-4, eta, "decoupled" if eta else "on_policy", 0)).run(lambda version, seen: eta)
    assert [step["policy/lag_max"] for step in result.metrics] == [min(eta, version) for version in range(5)]
    assert [step["policy/lag_mean"] for step in result.metrics] == [min(eta, version) for version in range(5)]
    # the policy of the newest version and the sampler agree
    assert result.metrics[0]["policy/kl_behaviour_k3"] == pytest.approx(0, abs=1e-7)
    assert len(result.rewards) == 6


def test_a_bound_that_falls_is_drained_and_one_that_rises_is_filled(model: Path) -> None:
    bounds = [3, 3, 1, 1, 2]
    result = run_of(model, Cell("sums", 5e-4, 3, "decoupled", 0)).run(lambda version, seen: bounds[min(version, 4)])
    # versions that the batches were sampled at: 0 0 0 0, then 1 of the second step, then none until two wait, then 3 and 4
    assert [step["policy/lag_max"] for step in result.metrics] == [0, 1, 2, 3, 3]


def test_an_adaptive_bound_is_obeyed_up_to_its_maximum(model: Path) -> None:
    run = run_of(model, Cell("sums", 5e-4, 2, "bypass_adaptive", 0))
    result = run.run(lambda version, seen: 4)
    assert result.metrics[-1]["policy/lag_max"] == 4


def test_a_run_depends_on_its_seed_alone_and_corrections_agree_at_first(model: Path) -> None:
    def rewards(cell: Cell) -> list[float]:
        return run_of(model, cell).run(lambda version, seen: cell.eta).rewards

    first = rewards(Cell("sums", 5e-4, 1, "decoupled", 0))
    assert first == rewards(Cell("sums", 5e-4, 1, "decoupled", 0))
    assert first != rewards(Cell("sums", 5e-4, 1, "decoupled", 1))
    # version 0 samples, and version 1 is made of what version 0 sampled: no correction has anything to correct
    other = rewards(Cell("sums", 5e-4, 1, "bypass", 0))
    assert first[:2] == other[:2]


def test_watching_a_loss_changes_nothing_and_tells_what_was_clipped(model: Path) -> None:
    watched = run_of(model, Cell("sums", 2e-3, 2, "bypass", 0))
    plain = run_of(model, Cell("sums", 2e-3, 2, "bypass", 0))
    plain.trainer.configure(plain.trainer.cfg)
    seen, bare = (run.run(lambda version, seen: 2) for run in (watched, plain))
    assert seen.rewards == bare.rewards
    assert not bare.use.tokens
    tokens, clipped = (np.concatenate(each) for each in (seen.use.tokens, seen.use.clipped))
    assert len(tokens) == 5 * 2 * 4
    assert 0 < clipped.sum() < tokens.sum()
    assert tokens.sum() == sum(step["learner/tokens"] for step in seen.metrics)
    shares = use_by_length(seen.use)
    assert shares["tokens"] == sorted(shares["tokens"])
    assert all(0 < share <= 1 for share in [*shares["kept"], *shares["ess"]])


def test_an_average_reference_follows_the_policy(model: Path) -> None:
    run = run_of(model, Cell("sums", 5e-4, 0, "on_policy", 0), "objective.kl_beta=0.01", "reference.ema=0.5")
    run.run(lambda version, seen: 0)
    assert run.trainer.reference is not None
    assert run.trainer.reference.averages == 5
