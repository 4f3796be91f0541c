import json
import logging
from pathlib import Path

import msgspec
import pytest
from prolong.common.messages import Status
from prolong.common.types import Batch, ValidationScore, ValidationSetting
from prolong.learner.checkpoints.checkpoint import LearnerState
from prolong.learner.report import SAID_EVERY_S, ProgressLog, batch_metrics, summarize, write_summary

from tests.support.batches import mixed_batch, random_batch


def score(version: int, setting: ValidationSetting, mean: float) -> ValidationScore:
    return ValidationScore(
        version=version, versions=[version], setting=setting, by_task={"math/sum": mean}, mean=mean, num_rollouts=8
    )


def test_rewards_are_means_by_domain_and_task() -> None:
    batch = random_batch(0, groups=2, n=2)
    other = msgspec.structs.replace(batch.groups[1].prompt, domain="logic", task="order")
    groups = [batch.groups[0], msgspec.structs.replace(batch.groups[1], prompt=other)]
    batch = Batch(
        generation=1,
        version=0,
        groups=groups,
        validation=[score(0, ValidationSetting.sampled, 0.5)],
        metrics={"buffer/filtered": 3.0},
    )
    metrics = batch_metrics(batch)
    rewards = [[r.verdict.reward or 0.0 for r in group.rollouts] for group in groups]
    assert metrics["reward/math"] == metrics["reward/math/sum"] == pytest.approx(sum(rewards[0]) / 2)
    assert metrics["reward/logic/order"] == pytest.approx(sum(rewards[1]) / 2)
    assert metrics["reward/mean"] == pytest.approx(sum(map(sum, rewards)) / 4)
    assert metrics["validation/sampled/math/sum"] == 0.5
    assert metrics["buffer/filtered"] == 3.0
    assert metrics["rollout/truncated"] == 0.0
    assert batch_metrics(mixed_batch(groups=2, n=4))["rollout/truncated"] == 0.25


def test_scores_are_by_domain_too_and_name_the_versions_that_made_them() -> None:
    by_task = {"math/sum": 0.2, "math/product": 0.4, "logic/order": 0.9}
    swept = ValidationScore(
        version=7, versions=[6, 8], setting=ValidationSetting.sampled, by_task=by_task, mean=0.5, num_rollouts=8
    )
    metrics = batch_metrics(Batch(generation=1, version=9, groups=random_batch(0, groups=1, n=2).groups, validation=[swept]))
    found = {key.removeprefix("validation/sampled/"): value for key, value in metrics.items() if key.startswith("validation")}
    assert found == pytest.approx(by_task | {"math": 0.3, "logic": 0.9, "mean": 0.5, "version": 7.0, "oldest_version": 6.0})


def test_the_summary_tells_before_from_after_and_splits_each_sides_time(tmp_path: Path) -> None:
    scores = [
        score(0, ValidationSetting.sampled, 0.4),
        score(0, ValidationSetting.greedy, 0.2),
        score(20, ValidationSetting.sampled, 0.7),
    ]
    scores += [score(40, ValidationSetting.sampled, 0.9), score(40, ValidationSetting.greedy, 0.95)]
    status = Status(
        run="r",
        generation=1,
        version=40,
        steps=40,
        ledger={"trained": 640},
        balanced=True,
        peers={
            "actor-0": {"role": "actor", "state": "ready", "busy_s": 9.0, "idle_s": 1.0, "weights_s": 0.5, "tokens": 7.0},
            "learner": {"role": "learner", "state": "connected"},
        },
        counters={"buffer/duplicates": 2},
        validation=scores,
    )
    state = LearnerState(version=40, staleness_max=2, reference_epoch=1, wall_s=60.0, spent={"wait_s": 10.0, "compute_s": 45.0})
    write_summary(tmp_path / "summary.json", summarize(state, status))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["before"]["sampled"]["mean"] == 0.4
    assert summary["before"]["greedy"]["by_task"] == {"math/sum": 0.2}
    assert (summary["after"]["sampled"]["mean"], summary["after"]["greedy"]["mean"]) == (0.9, 0.95)
    assert summary["ledger"] == {"trained": 640}
    assert (summary["steps"], summary["staleness_max"], summary["reference_resets"]) == (40, 2, 1)
    assert summary["time_split"]["learner"]["compute_s"] == 45.0
    assert summary["time_split"]["actors"] == {"actor-0": {"busy_s": 9.0, "idle_s": 1.0, "weights_s": 0.5}}


def test_a_run_without_validation_has_a_summary_too() -> None:
    status = Status(run="r", generation=1, version=1, steps=1, ledger={}, balanced=True, peers={}, counters={}, validation=[])
    summary = summarize(LearnerState(version=1), status)
    assert summary["before"] == summary["after"] == {}


def test_the_log_tells_the_first_step_the_last_one_and_one_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    told, record = ProgressLog(5), {"reward/mean": 0.5, "learner/step_s": 2.0, "learner/wait_s": 0.5}
    with caplog.at_level(logging.INFO):
        for version, now in enumerate((100.0, 101.0, 100.0 + SAID_EVERY_S, 131.0, 132.0), start=1):
            told.tell(version, record, now)
    assert [message.split(":")[0] for message in caplog.messages] == ["step 1 of 5", "step 3 of 5", "step 5 of 5"]
    assert caplog.messages[0] == "step 1 of 5: mean reward 0.50, 2.00 s, of which 0.50 s waiting for the batch"
