"""What MODELS may name, and by which name tables call it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch.evaluate.models import architecture, models_named

from tests.support.tiny_model import make_tiny_model


def checkpoint(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("state.json", "config.json", *files):
        (folder / name).write_text("{}")
    return folder


def test_a_run_is_its_newest_checkpoint_and_checkpoints_are_known_by_run_and_step(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    whole = checkpoint(run / "checkpoints" / "step-00000010", "model.safetensors")
    shards = checkpoint(run / "checkpoints" / "step-00000020", "policy-1-of-2.safetensors")
    (run / "config.yaml").touch()
    newest, first = models_named([str(run), f"{whole}/"], tmp_path / "exports")
    assert (newest.name, newest.step, newest.checkpoint) == ("mine-20", 20, shards)
    assert newest.path == str(tmp_path / "exports" / "mine-20")
    assert (first.name, first.step, first.checkpoint, first.path) == ("mine-10", 10, None, str(whole))


def test_two_models_that_tables_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    models = [str(make_tiny_model(tmp_path / side / "model", tied=True)) for side in "ab"]
    with pytest.raises(UserError, match="tables would call each of them model"):
        models_named(models, tmp_path)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        models_named([str(tmp_path)], tmp_path)


def test_one_engine_serves_models_that_differ_in_their_weights_alone(tmp_path: Path) -> None:
    folders = [
        make_tiny_model(tmp_path / name, tied=tied, seed=seed)
        for name, tied, seed in [("a", True, 0), ("b", True, 1), ("c", False, 0)]
    ]
    first, second, third = (architecture(model) for model in models_named([str(folder) for folder in folders], tmp_path))
    assert first == second != third
