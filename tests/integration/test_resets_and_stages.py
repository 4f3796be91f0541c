"""Resets and stages with the real learner and buffer: by hand, back to the best checkpoint, and an end at a target."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.choices import ResetSource
from prolong.common.config.run_files import run_paths
from prolong.common.config.sections import SourceConfig
from prolong.common.metrics import read_metrics
from prolong.learner.schedule import outcomes_of

from tests.support.buffer_process import BufferProcess
from tests.support.checkpoints import load_weights
from tests.support.learner_process import end_of, learner, make_config, wait_for_steps, weights_of
from tests.support.scripted_actor import ScriptedActor


def with_validation(cfg, tmp_path: Path, every: int):
    """Held-out prompts; the scripted actor answers every second rollout rightly, so that each score is .5."""
    heldout = tmp_path / "heldout.jsonl"
    line = {"prompt": "2+2=", "domain": "math", "task": "addition", "verifier": "number", "answer": {"answer": "4"}}
    heldout.write_text("".join(json.dumps(line) + "\n" for _ in range(2)))
    cfg.data.heldout = [SourceConfig(file=str(heldout))]
    cfg.validation.every, cfg.validation.n, cfg.validation.max_tokens, cfg.validation.greedy = every, 2, 12, False
    return cfg


def test_a_reset_by_hand_is_part_of_the_next_batch(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, steps=1000)
    cfg.reference.reset_every = 0
    path = run_paths(cfg).metrics
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process, ScriptedActor(cfg, buffer.address):
        wait_for_steps(cfg, 2)
        command = [sys.executable, "-m", "prolong.launch.cli", "reset", "--run", str(run_paths(cfg).folder)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=150)
        assert said.returncode == 0, said.stderr
        version = int(said.stdout.rpartition("version ")[2])
        wait_for_steps(cfg, version + 2)
        process.send_signal(signal.SIGTERM)
        end_of(process)
    records = read_metrics(path)
    assert [record["step"] for record in records if record["reference/asked"]] == [version + 1]
    assert records[version]["reference/reset_asked"] == 1.0
    assert records[version + 1]["reference/kl"] == 0.0
    assert records[-1]["reference/epoch"] == 1.0


def test_a_reset_to_the_best_checkpoint_takes_the_policy_back_too(tmp_path: Path) -> None:
    """All scores are equal, so the first sweep's version, 0, stays the best: the weights that the run began with."""
    cfg = with_validation(make_config(tmp_path, steps=4), tmp_path, every=2)
    cfg.reference.reset_every, cfg.reference.source, cfg.checkpoint.every, cfg.checkpoint.keep = 4, ResetSource.best, 1, 9
    cfg.run.steps = 5
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process, ScriptedActor(cfg, buffer.address):
        end_of(process)
    began = load_weights_of_model(cfg)
    assert all(torch.equal(tensor, began[name]) for name, tensor in weights_of(cfg, 4).items())
    assert any(not torch.equal(tensor, began[name]) for name, tensor in weights_of(cfg, 3).items())
    saved = load_weights(run_paths(cfg).checkpoints / "step-00000004")
    assert saved.keys() == began.keys()
    assert read_metrics(run_paths(cfg).metrics)[4]["reference/kl"] == 0.0


def test_a_run_ends_with_the_target_of_its_last_stage(tmp_path: Path) -> None:
    cfg = with_validation(make_config(tmp_path, steps=200), tmp_path, every=2)
    cfg.reference.reset_every = 0
    cfg.stages = [
        StageConfig(name="first", steps=3, learner={"lr": 1e-4}),
        StageConfig(name="until half", target=0.5, reset=True, sampling={"n": 6}),
    ]
    with BufferProcess(cfg) as buffer, learner(cfg, buffer.address) as process, ScriptedActor(cfg, buffer.address):
        end_of(process)
    records, summary = read_metrics(run_paths(cfg).metrics), json.loads(run_paths(cfg).summary.read_text())
    assert 3 < len(records) < 60
    assert [record["learner/lr"] for record in records[:4]] == [1e-4, 1e-4, 1e-4, 1e-3]
    assert [(version, outcome.reset) for version, outcome in outcomes_of(cfg, records) if outcome.reset] == [(3, "stage")]
    assert records[-1]["validation/sampled/version"] >= 3
    assert max(record["rollout/count"] for record in records) == 12
    ledger = dict(summary["ledger"])
    assert ledger["trained"] == 2 * len(records)
    assert ledger["issued"] == ledger["leased"] == ledger["stored"] == ledger["batched"] == 0
    assert summary["after"]["sampled"]["version"] == len(records)


def load_weights_of_model(cfg) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(cfg.model.path) / "model.safetensors")
