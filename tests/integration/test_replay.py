"""`prolong replay`: the real learner again on recorded batches, of a real run too, to the same SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from prolong.common.config.run_files import RunPaths, load_config, save_config
from prolong.common.config.sections import Config
from prolong.common.metrics import read_metrics
from prolong.launch.replay import diff, replay
from safetensors.torch import load_file, save_file

from tests.support.recorded_run import SWEEP, learn_from_history, recorded_batch, rewrite_history, staged_config, with_reward
from tests.support.runs import CLI, SMALL, Run
from tests.support.tiny_model import make_tiny_model

STEPS = 24


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """Every file but the table in which LMDB's readers sign."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: sha256(path) for name, path in found.items() if name != "journal/lock.mdb"}


def called(command: str, folder: Path, *arguments: str, timeout: float = 400) -> tuple[int, dict, str]:
    """`prolong COMMAND FOLDER --json` in a process of its own."""
    line = [*CLI, command, str(folder), *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A staged run that resets now and then, once to its best checkpoint after version 12."""
    cfg = staged_config(model, tmp_path_factory.mktemp("runs"), steps=STEPS)
    cfg.run.name, cfg.checkpoint.keep = "whole", 3
    cfg.stages[1].reference = {"source": "best", "reset_every": 4}
    paths = learn_from_history(cfg, [recorded_batch(version) for version in range(STEPS)])
    records = read_metrics(paths.metrics)
    assert [record["stage/index"] for record in records] == [0] * 6 + [1] * 12 + [2] * 6
    assert [record["step"] for record in records if record.get("reference/reset_every")] == [10, 15]
    rates = [record["learner/lr"] for record in records]
    assert rates[:6] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])
    # resets at versions 10 and 11 clear AdamW
    assert rates[9:13] == pytest.approx([1e-3, 0.25e-3, 0.25e-3, 0.5e-3])
    assert rates[18:] == pytest.approx([0.75e-4, 1.5e-4, 2.25e-4, 3e-4, 2.25e-4, 0.75e-4])
    return paths


@pytest.fixture
def run(whole: RunPaths, tmp_path: Path) -> RunPaths:
    """A copy that a test may change."""
    return RunPaths(shutil.copytree(whole.folder, tmp_path / "whole"))


def replayed(paths: RunPaths, capsys: pytest.CaptureFixture[str], until: int | None = None) -> tuple[int, dict]:
    code = replay.replay_run(str(paths.folder), until=until, keep=False, as_json=True)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_staged_run_comes_out_the_same_from_its_first_version_and_is_not_touched(run: RunPaths) -> None:
    before = files_of(run.folder)
    code, found, said = called("replay", run.folder)
    assert (code, found["same"], found["start"], found["until"]) == (0, True, 0, STEPS), said
    assert f"replaying whole from version 0 (the model {load_config(run.config).model.path}) to version {STEPS}" in said
    assert (found["records"], found["checkpoints"]) == (STEPS, [4, 12, 16, 20, 24])
    newest = run.checkpoints / f"step-{STEPS:08d}"
    names = ("model.safetensors", "reference.safetensors", "trainer.safetensors")
    assert found["sha256"] == {name: sha256(newest / name) for name in names}
    assert files_of(run.folder) == before
    assert not (run.folder / "replay").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_checkpoint_the_same_run_goes_back_to_its_best_version(
    run: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal of a run without `buffer.keep_history`: what the oldest checkpoints need is gone."""
    rewrite_history(run.journal, lambda batch: batch if batch.version >= 9 else None)
    cfg = load_config(run.config)
    cfg.checkpoint.keep = 1
    save_config(cfg, run.config)
    before = files_of(run.folder)
    code, found = replayed(run, capsys, until=22)
    assert (code, found["origin"], found["start"], found["until"]) == (0, "the checkpoint step-00000012", 12, 22)
    assert (found["records"], found["checkpoints"]) == (10, [20])  # that of 22 took its own place, not this one's
    assert found["sha256"]["model.safetensors"] == sha256(run.checkpoints / "step-00000020" / "model.safetensors")
    assert files_of(run.folder) == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_reward_that_changed_in_the_record_is_found_at_its_step(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite_history(run.journal, lambda batch: with_reward(batch, 0.125) if batch.version == 9 else batch)
    assert replay.replay_run(str(run.folder), until=None, keep=False, as_json=False) == 1
    text = capsys.readouterr().out
    recorded = read_metrics(run.metrics)[9]["reward/mean"]
    assert text.startswith(f"step 10: reward/mean: recorded {recorded}, replayed ")
    assert "until version 9 everything is the same" in text
    kept = run.folder / "replay"
    assert [record["step"] for record in read_metrics(kept / "metrics.jsonl")][:10] == list(range(1, 11))
    assert diff.show_diff(str(run.folder), str(kept), as_json=False) == 1
    assert f"settings: the same\nstep 10: reward/mean: {recorded} against " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_weights_that_differ_in_their_last_bits_are_not_called_damaged(
    run: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.checkpoints / "step-00000004" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.nextafter(tensors["model.norm.weight"], torch.tensor(9.0))
    save_file(tensors, path, metadata={"format": "pt"})
    code, found = replayed(run, capsys, until=6)
    assert code == 1
    assert (found["difference"]["step"], found["difference"]["rounding"]) == (SWEEP, True)
    assert found["difference"]["what"] == "checkpoint: SHA-256 of model.safetensors"
    assert found["difference"]["left"] == sha256(path)
    assert "tensor model.norm.weight by " in found["difference"]["detail"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_over_earlier_than_recorded_differs(run: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load_config(run.config)
    cfg.run.steps = 20
    save_config(cfg, run.config)
    code, found = replayed(run, capsys)
    assert (code, found["difference"]["step"], found["difference"]["what"]) == (1, 21, "the run")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_come_out_as_two_ranks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = staged_config(model, tmp_path, steps=4)
    cfg.stages, cfg.run.name, cfg.launch.learner_ranks = [], "two", 2
    # each rank averages its own shards of the reference
    cfg.reference.ema, cfg.learner.ess_on_policy = 0.9, 1.0
    paths = learn_from_history(cfg, [recorded_batch(version) for version in range(4)])
    code, found = replayed(paths, capsys)
    assert (code, found["checkpoints"]) == (0, [4])
    files = sorted(path.name for path in (paths.checkpoints / "step-00000004").glob("*-of-00002.safetensors"))
    # the model that is exported at the end is made of these, and not compared
    assert [*found["sha256"]] == files
    assert len(files) == 6
    assert found["sha256"][files[-1]] == sha256(paths.checkpoints / "step-00000004" / files[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_learner_that_cannot_begin_is_one_sentence_and_exit_code_2(run: RunPaths) -> None:
    cfg: Config = load_config(run.config)
    cfg.model.path = str(run.folder / "gone")
    save_config(cfg, run.config)
    code, _, said = called("replay", run.folder, "--until", "2")
    assert code == 2
    sentence = said.splitlines()[-1]
    assert sentence.startswith("prolong replay: the replayed learner failed at step 1: ")
    assert str(run.folder / "gone") in sentence


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_real_run_is_replayed_while_it_lives_and_after_its_end(demo_model: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, f"model.path={demo_model}", "data.heldout=[]", f"data.train=[{{file: {demo_model}/train.jsonl}}]"]
    real = Run(tmp_path, "real", [*overrides, "run.steps=8", "buffer.keep_history=true", "objective.kl_beta=0.01"])
    try:
        train = real.start("train", "buffer.address=tcp://127.0.0.1:0")
        real.wait_for_step(3, 400)
        code, found, said = called("replay", real.folder, "--until", "2", "--keep")
        assert (code, found.get("until")) == (0, 2), said + real.output()
        assert real.ended(train, 400) == 0, real.output()
    finally:
        real.kill_all()
    before = files_of(real.folder)
    code, found, said = called("replay", real.folder)
    assert (code, found["start"], found["until"]) == (0, 0, 8), said
    assert found["sha256"]["model.safetensors"] == sha256(real.folder / "checkpoints" / "step-00000008" / "model.safetensors")
    assert {name: digest for name, digest in before.items() if not name.startswith("replay/")} == files_of(real.folder)
    rewrite_history(real.folder / "journal", lambda batch: with_reward(batch, 0.5) if batch.version == 6 else batch)
    code, found, _ = called("replay", real.folder)
    assert (code, found["difference"]["step"], found["difference"]["what"]) == (1, 7, "reward/mean")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_with_adapters_comes_out_the_same_from_a_checkpoint(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoints hold no model; resets clear AdamW, replace the reference, and once go back to the best version."""
    cfg = staged_config(model, tmp_path, steps=16)
    cfg.run.name, cfg.checkpoint.keep, cfg.model.lora = "adapters", 4, {"rank": 2}
    # adapters have no average
    cfg.stages[2].reference = {"reset_optimizer": False}
    paths = learn_from_history(cfg, [recorded_batch(version) for version in range(16)])
    resets = [record["step"] for record in read_metrics(paths.metrics) if any("reference/reset_" in name for name in record)]
    assert len(resets) >= 3
    assert resets[0] == 4  # in the oldest checkpoint
    rewrite_history(paths.journal, lambda batch: batch if batch.version >= 4 else None)
    code, found = replayed(paths, capsys)
    assert (code, found["same"], found["start"], found["until"]) == (0, True, 4, 16), found
    adapter = paths.checkpoints / "step-00000016" / "adapter_model.safetensors"
    assert found["sha256"]["adapter_model.safetensors"] == sha256(adapter)
