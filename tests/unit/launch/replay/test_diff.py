"""`prolong diff`: settings, then step by step what went in before what came out."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prolong.common.config.run_files import RunPaths, run_paths, save_config
from prolong.common.config.sections import Config
from prolong.common.errors import UserError
from prolong.common.types import Batch, FinishReason, Rollout, ValidationScore, ValidationSetting, VersionSpan
from prolong.launch.replay.compare_batches import compare_batches
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
    assert "these are the last bits of a number" in capsys.readouterr().out


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


def of_rollout(**changes: object) -> Callable[[Batch], Batch]:
    """The batch with changes in the second rollout of its first group."""

    def change(batch: Batch) -> Batch:
        groups, rollouts = list(batch.groups), list(batch.groups[0].rollouts)
        rollouts[1] = msgspec.structs.replace(rollouts[1], **changes)
        groups[0] = msgspec.structs.replace(groups[0], rollouts=rollouts)
        return msgspec.structs.replace(batch, groups=groups)

    return change


def of_group(**changes: object) -> Callable[[Batch], Batch]:
    """The batch with changes in its first group."""
    return lambda batch: msgspec.structs.replace(
        batch, groups=[msgspec.structs.replace(batch.groups[0], **changes), *batch.groups[1:]]
    )


BATCH = random_batch(5)
ROLLOUT: Rollout = BATCH.groups[0].rollouts[1]
SIZE = ROLLOUT.num_tokens
IDS = np.frombuffer(ROLLOUT.token_ids, "<i4")
LOGPROB = np.frombuffer(ROLLOUT.behaviour_logprobs, "<f4")[0].item()
SCORE = ValidationScore(version=3, versions=[3], setting=ValidationSetting.sampled, by_task={}, mean=0.25, num_rollouts=4)
PROMPT = msgspec.structs.replace(BATCH.groups[0].prompt, uid="other")
HERE = "prompt math/sum 0 of ticket 15"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_group(ordinal=99), f"group 1: {HERE} against prompt math/sum 0 of ticket 99"),
        (of_group(prompt=PROMPT), f"group 1: {HERE} against prompt math/sum other of ticket 15"),
        (of_group(rollouts=BATCH.groups[0].rollouts[:3]), f"group 1: {HERE} with 4 rollouts against 3"),
        (
            of_rollout(token_ids=(IDS + (np.arange(SIZE) == 0)).astype("<i4").tobytes()),
            f"group 1: {HERE}, rollout 1: token 0 {IDS[0]} against {IDS[0] + 1}",
        ),
        (
            of_rollout(token_ids=IDS[:-1].tobytes()),
            f"group 1: {HERE}, rollout 1: token {SIZE - 1} {IDS[-1]} against the end",
        ),
        (
            of_rollout(behaviour_logprobs=(np.frombuffer(ROLLOUT.behaviour_logprobs, "<f4") * 0).tobytes()),
            f"group 1: {HERE}, rollout 1: behaviour log-probability 0 {LOGPROB} against -0.0",
        ),
        (of_rollout(finish_reason=FinishReason.length), f"group 1: {HERE}, rollout 1: end stop against length"),
        (
            of_rollout(spans=[VersionSpan(version=4, start=0, end=SIZE)]),
            f"group 1: {HERE}, rollout 1: versions 5 for tokens 0 to {SIZE} against 4 for tokens 0 to {SIZE}",
        ),
        (
            lambda batch: msgspec.structs.replace(batch, groups=batch.groups[:2]),
            "group 3: prompt math/sum 2 of ticket 17 against no group",
        ),
        (
            lambda batch: msgspec.structs.replace(batch, validation=[SCORE]),
            "validation score: none against 0.25 of version 3, sampled",
        ),
        (lambda batch: msgspec.structs.replace(batch, reset_requested=True), "reset asked for: False against True"),
    ],
)
def test_the_first_difference_of_a_batch_is_named(change: Callable[[Batch], Batch], sentence: str) -> None:
    found = compare_batches(BATCH, change(BATCH))
    assert found is not None
    assert found.sentence() == f"step 6: the batch differs: {sentence}"


@pytest.mark.parametrize("change", [of_group(actor="b"), of_group(seconds=9.0), lambda batch: batch])
def test_who_generated_a_group_and_how_fast_makes_no_other_batch(change: Callable[[Batch], Batch]) -> None:
    assert compare_batches(BATCH, change(BATCH)) is None


def test_sampling_that_differs_is_named() -> None:
    found = compare_batches(BATCH, of_group(sampling=msgspec.structs.replace(BATCH.groups[0].sampling, top_p=0.5))(BATCH))
    assert found is not None
    assert "top_p=1.0" in str(found.left)
    assert "top_p=0.5" in str(found.right)
