"""`prolong diff`: settings, then step by step what went in before what came out."""

import json
from pathlib import Path

import pytest
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.errors import UserError
from prolong.launch.replay.diff import show_diff

from tests.support.batches import random_batch
from tests.support.recorded_run import record_history, rewrite_history, with_reward

STEPS = 4


def a_run(root: Path, name: str, **overrides: float) -> RunPaths:
    """Four recorded steps of random batches, with a checkpoint of the last. `overrides` of learner settings."""
    cfg = Config()
    cfg.run.root, cfg.run.name, cfg.model.path = str(root / name), name, str(root / name / name / "model")
    cfg.buffer.address = f"tcp://127.0.0.1:{5000 + len(name)}"
    for key, value in overrides.items():
        setattr(cfg.learner, key, value)
    paths = run_paths(cfg)
    save_config(cfg, paths.config)
    record_history(paths.journal, [random_batch(version) for version in range(STEPS)])
    records = [{"step": step, "learner/loss": step / 8, "actor/in_flight": len(name), "wall_s": 1.0} for step in range(1, 5)]
    write_records(paths, records)
    folder = paths.checkpoints / "step-00000004"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"version": 4, "wall_s": len(name), "skipped": 0}))
    return paths


def write_records(paths: RunPaths, records: list[dict]) -> None:
    paths.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))


def change_loss(paths: RunPaths, step: int, loss: float) -> None:
    records = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    write_records(paths, [record | ({"learner/loss": loss} if record["step"] == step else {}) for record in records])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunPaths, RunPaths]:
    return a_run(tmp_path, "one"), a_run(tmp_path, "three")


def compared(pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    code = show_diff(str(pair[0].folder), str(pair[1].folder), as_json=True)
    return code, json.loads(capsys.readouterr().out)


def test_runs_that_only_places_and_clocks_tell_apart_are_the_same(
    pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, addresses, the folder inside of a path, clocks, and numbers of processes that run side by side."""
    code, found = compared(pair, capsys)
    assert (code, found["same"], found["settings"], found["difference"]) == (0, True, {}, None)
    assert (found["batches"], found["records"], found["checkpoints"]) == (4, 4, 1)
    assert show_diff(str(pair[0].folder), str(pair[1].folder), as_json=False) == 0
    text = capsys.readouterr().out
    assert "settings: the same\nall steps that both recorded are the same: 4 batches, 4 records of metrics, 1 ch" in text
    assert f"A  {pair[0].folder}: 4 steps, batches of versions 0 to 3, 1 checkpoints" in text


def test_settings_that_differ_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = a_run(tmp_path, "one"), a_run(tmp_path, "three", lr=0.5, minibatches=2)
    code, found = compared(pair, capsys)
    assert (code, found["same"], found["difference"]) == (1, False, None)
    assert found["settings"] == {"learner.minibatches": [1, 2], "learner.lr": [2e-6, 0.5]}
    show_diff(str(pair[0].folder), str(pair[1].folder), as_json=False)
    assert (
        "settings: 2 differ\n  learner.minibatches: 1 against 2\n  learner.lr: 2e-06 against 0.5\n" in capsys.readouterr().out
    )


def test_a_setting_that_one_version_of_prolong_does_not_know_is_no_obstacle(
    pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    pair[1].config.write_text(pair[1].config.read_text() + "later:\n  knob: 3\n")
    assert compared(pair, capsys)[1]["settings"] == {"later.knob": [None, 3]}


def test_what_went_in_comes_before_what_came_out(pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    change_loss(pair[1], 3, 9.0)
    code, found = compared(pair, capsys)
    assert (code, found["difference"]["step"], found["difference"]["what"]) == (1, 3, "learner/loss")
    rewrite_history(pair[1].journal, lambda batch: with_reward(batch, 7.0, group=1, rollout=2) if batch.version == 2 else batch)
    show_diff(str(pair[0].folder), str(pair[1].folder), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    reward = random_batch(2).groups[1].rollouts[2].verdict.reward
    assert lines[-2] == (
        f"step 3: the batch differs: group 2: prompt math/sum 1 of ticket 7, rollout 2: reward {reward} against 7.0"
    )
    assert lines[-1].startswith("until step 2 everything that both recorded is the same")
    change_loss(pair[1], 1, 9.0)
    assert compared(pair, capsys)[1]["difference"]["step"] == 1


def test_a_checkpoint_comes_after_the_numbers_of_its_step(
    pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    (pair[1].checkpoints / "step-00000004" / "state.json").write_text(json.dumps({"version": 4, "skipped": 1}))
    assert compared(pair, capsys)[1]["difference"]["what"] == "checkpoint: state.json: skipped"
    change_loss(pair[1], 4, 9.0)
    assert compared(pair, capsys)[1]["difference"]["what"] == "learner/loss"


def test_the_end_of_the_shorter_run_is_no_difference(
    pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_history(pair[1].journal, lambda batch: batch if batch.version in (1, 2) else None)
    write_records(pair[1], [json.loads(line) for line in pair[1].metrics.read_text().splitlines()[:3]])
    code, found = compared(pair, capsys)
    assert (code, found["batches"], found["records"]) == (0, 2, 3)


def test_last_bits_are_called_so(pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]) -> None:
    change_loss(pair[1], 2, 0.25 + 1e-9)
    assert show_diff(str(pair[0].folder), str(pair[1].folder), as_json=False) == 1
    assert "only the last bits of a number differ" in capsys.readouterr().out


def test_runs_without_anything_in_common_cannot_be_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": ord(name)}) + "\n")
    with pytest.raises(UserError, match="recorded nothing in common"):
        show_diff(str(tmp_path / "a"), str(tmp_path / "b"), as_json=False)
    with pytest.raises(UserError, match="run 'nowhere': expected a run folder"):
        show_diff(str(tmp_path / "a"), "nowhere", as_json=False)


def test_runs_without_settings_or_journal_are_compared_by_the_rest(
    pair: tuple[RunPaths, RunPaths], capsys: pytest.CaptureFixture[str]
) -> None:
    pair[0].config.unlink()
    (pair[0].journal / "data.mdb").unlink()
    assert show_diff(str(pair[0].folder), str(pair[1].folder), as_json=False) == 0
    text = capsys.readouterr().out
    assert "settings: not compared, one of them has no config.yaml" in text
    assert "4 steps, no batches, 1 checkpoints" in text
