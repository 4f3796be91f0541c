"""Two recordings of a step: which numbers count, what comes first, and what is rounding."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from prolong.common.config.run_files import find_checkpoints
from prolong.common.types import Batch, FinishReason, Rollout, ValidationScore, ValidationSetting, VersionSpan
from prolong.launch.replay.comparison import (
    Difference,
    compare_batches,
    compare_checkpoints,
    compare_records,
    fingerprint,
    flatten,
    is_rounding,
    unrecorded,
)
from safetensors.torch import save_file

from tests.support.batches import random_batch

RECORD = {"step": 4, "reward/mean": 0.5, "actor/idle_s": 3.0, "learner/loss": -0.25, "learner/lr": 1e-6, "policy/kl": 2e-9}
STATE = {"version": 4, "wall_s": 9.0, "spent": {"wait_s": 3.0}, "resets": {"count": 1, "best": 0.5}}


def write_checkpoint(folder: Path, weights: list[float], state: dict | None = None) -> Path:
    """A folder with a small model, a trainer and the state of version 4."""
    path = folder / "step-00000004"
    path.mkdir(parents=True)
    save_file({"a": torch.ones(3), "b": torch.tensor(weights)}, path / "model.safetensors")
    save_file({"m": torch.zeros(2)}, path / "trainer.safetensors")
    (path / "state.json").write_text(json.dumps(STATE | (state or {})))
    return path


def difference_of(left: Path, right: Path) -> Difference | None:
    one, other = fingerprint(4, left), fingerprint(4, right)
    assert one is not None
    assert other is not None
    return compare_checkpoints(one, other)


def test_clocks_and_what_is_left_out_are_not_compared() -> None:
    assert compare_records(RECORD, RECORD | {"actor/idle_s": 4.0}, ()) is None
    assert compare_records(RECORD, RECORD | {"weights/failed": 1.0}, ("weights/",)) is None
    found = compare_records(RECORD, RECORD | {"weights/failed": 1.0}, ())
    assert found == Difference(step=4, what="weights/failed", left=None, right=1.0)


def test_the_first_number_that_differs_is_named_and_a_missing_one_is_nothing() -> None:
    found = compare_records(RECORD, RECORD | {"reward/mean": 0.75, "learner/loss": 1.0}, ())
    assert found == Difference(step=4, what="reward/mean", left=0.5, right=0.75)
    found = compare_records(RECORD, {name: value for name, value in RECORD.items() if name != "learner/loss"}, ())
    assert found is not None
    assert found.sentence("recorded", "replayed") == "step 4: learner/loss: recorded -0.25, replayed nothing"


def test_a_difference_in_the_last_bits_is_called_so_unless_there_is_a_greater_one() -> None:
    close = RECORD | {"reward/mean": math.nextafter(0.5, 1), "policy/kl": -3e-9}
    found = compare_records(RECORD, close, ())
    assert found is not None
    assert (found.what, found.rounding) == ("reward/mean", True)
    found = compare_records(RECORD, close | {"learner/lr": 2e-6}, ())
    assert found == Difference(step=4, what="learner/lr", left=1e-6, right=2e-6)


def test_metrics_that_came_later_are_not_compared_with_older_records() -> None:
    older = RECORD | {"agreement/tokens": 8.0, "policy/ess": 1.0}
    newer = older | {"policy/lag_mean": 0.5, "policy/lag_max": 2.0, "policy/ess": 0.9}
    assert compare_records(older, newer, unrecorded(older)) is None
    found = compare_records(newer, newer | {"policy/ess": 1.0}, unrecorded(newer))
    assert found == Difference(step=4, what="policy/ess", left=0.9, right=1.0)
    assert compare_records(RECORD, newer, unrecorded(RECORD)) is None
    assert compare_records(older, newer | {"learner/loss": 1.0}, unrecorded(older)) is not None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(8.0, 8.0 + 5e-6, True), (8.0, 8.0 + 5e-5, False), (0.02, 0.0200005, True), (0.0, 2e-6, False), (None, 0.0, False)],
)
def test_rounding_is_a_millionth_of_a_number_or_of_one(left: float | None, right: float, expected: bool) -> None:
    assert is_rounding(left, right) is expected


def test_durations_do_not_make_checkpoints_differ(tmp_path: Path) -> None:
    ours = write_checkpoint(tmp_path / "a", [1.0, 2.0])
    theirs = write_checkpoint(tmp_path / "b", [1.0, 2.0], {"wall_s": 1.0, "spent": {"wait_s": 4.0}})
    assert difference_of(ours, theirs) is None
    known = fingerprint(4, ours)
    assert known is not None
    assert known.digests["model.safetensors"] == hashlib.sha256((ours / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("weight", "rounding"), [(2.0000002, True), (2.1, False)])
def test_a_checkpoint_that_differs_says_where_and_how_far(tmp_path: Path, weight: float, rounding: bool) -> None:
    ours, theirs = write_checkpoint(tmp_path / "a", [1.0, 2.0]), write_checkpoint(tmp_path / "b", [1.0, weight])
    found = difference_of(ours, theirs)
    assert found is not None
    assert found.what == "checkpoint: SHA-256 of model.safetensors"
    assert found.left == hashlib.sha256((ours / "model.safetensors").read_bytes()).hexdigest()
    assert found.rounding is rounding
    gap = (torch.tensor(weight) - 2.0).item() / 2.0
    assert found.detail == f"tensor b by {gap:.1e} of its largest number"


def test_other_tensors_a_missing_file_and_a_damaged_one_are_no_rounding(tmp_path: Path) -> None:
    ours = write_checkpoint(tmp_path / "a", [1.0, 2.0])
    shaped = write_checkpoint(tmp_path / "b", [1.0, 2.0, 3.0])
    named = write_checkpoint(tmp_path / "c", [1.0, 2.0])
    save_file({"other": torch.ones(1)}, named / "trainer.safetensors")
    torn = write_checkpoint(tmp_path / "d", [1.0, 2.0])
    (torn / "model.safetensors").write_bytes(b"torn")
    missing = write_checkpoint(tmp_path / "e", [1.0, 2.0])
    (missing / "trainer.safetensors").unlink()
    found = [difference_of(ours, each) for each in (shaped, named, torn, missing)]
    assert all(each is not None and not each.rounding for each in found)
    details = [each.detail for each in found if each is not None]
    assert details[0] == "tensor b by inf of its largest number"
    assert details[1] == "tensor m is in one of them only"
    assert details[2].startswith("cannot be read: ")
    assert found[3] is not None
    assert (found[3].what, found[3].right) == ("checkpoint: SHA-256 of trainer.safetensors", None)


def test_a_number_of_the_state_is_named(tmp_path: Path) -> None:
    ours = write_checkpoint(tmp_path / "a", [1.0])
    theirs = write_checkpoint(tmp_path / "b", [1.0], {"resets": {"count": 2, "best": 0.5}})
    assert difference_of(ours, theirs) == Difference(step=4, what="checkpoint: state.json: resets.count", left=1, right=2)


def test_only_whole_checkpoints_are_found_and_one_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, [1.0])
    (tmp_path / "step-00000008").mkdir()
    (tmp_path / ".step-00000012.77").mkdir()
    (tmp_path / ".step-00000012.77" / "state.json").write_text("{}")
    assert find_checkpoints(tmp_path) == {4: path}
    assert fingerprint(8, tmp_path / "step-00000008") is None


def test_trees_are_flattened_to_dotted_names() -> None:
    tree = {"a": {"b": 1, "c": []}, "d": [{"e": "x"}, 2.0], "f": None}
    assert dict(flatten(tree)) == {"a.b": 1, "a.c": "[]", "d.0.e": "x", "d.1": 2.0, "f": None}


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
