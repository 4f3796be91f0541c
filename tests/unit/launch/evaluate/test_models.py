"""What MODELS may name, and by which name tables call it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prolong.common.errors import UserError
from prolong.launch.evaluate.models import EvaluatedModel, architecture, export_if_needed, models_named
from prolong.learner.checkpoints import export

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
    assert newest.path.startswith(str(tmp_path / "exports" / "mine-20-"))
    assert (first.name, first.step, first.checkpoint, first.path) == ("mine-10", 10, None, str(whole))


def shards(folder: Path) -> Path:
    return checkpoint(folder / "checkpoints" / "step-00000020", "policy-1-of-2.safetensors")


def resolved(folder: Path, exports: Path) -> EvaluatedModel:
    (model,) = models_named([str(folder)], exports)
    return model


def test_a_checkpoint_that_is_written_anew_is_exported_anew(tmp_path: Path) -> None:
    """A run of the name of an earlier one: the export of that one holds other weights."""
    folder = shards(tmp_path)
    before = resolved(folder, tmp_path)
    assert resolved(folder, tmp_path) == before
    os.utime(folder / "policy-1-of-2.safetensors", ns=(1, 1))
    after = resolved(folder, tmp_path)
    assert (after.name, after.step) == (before.name, before.step)
    assert after.path != before.path


def test_an_export_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it fails half way, or another process makes the same one meanwhile."""
    model = resolved(shards(tmp_path), tmp_path / "exports")

    def fails(checkpoint: Path, out: Path, *, dtype: None) -> None:
        out.mkdir()
        raise OSError("no room")

    monkeypatch.setattr(export, "export_checkpoint", fails)
    with pytest.raises(OSError, match="no room"):
        export_if_needed(model)
    assert list((tmp_path / "exports").iterdir()) == []

    def loses_the_race(checkpoint: Path, out: Path, *, dtype: None) -> None:
        for folder, text in ((out, "ours"), (Path(model.path), "theirs")):
            folder.mkdir()
            (folder / "config.json").write_text(text)

    monkeypatch.setattr(export, "export_checkpoint", loses_the_race)
    export_if_needed(model)
    export_if_needed(model)
    assert list((tmp_path / "exports").iterdir()) == [Path(model.path)]
    assert Path(model.path, "config.json").read_text() == "theirs"


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
