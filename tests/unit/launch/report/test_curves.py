"""The columns, sweeps and marks of a run, from its records."""

from __future__ import annotations

from pathlib import Path

from prolong.common.config.algorithm import StageConfig
from prolong.common.metrics import MetricsRecord
from prolong.launch.report.curves import MAX_NAMES, MAX_POINTS, columns_of, marks_of, restarts_of, sweeps_of
from prolong.launch.report.facts import before_and_after

ROOT = Path(__file__).resolve().parents[4]


def records_of(**columns: list[float | None]) -> list[MetricsRecord]:
    """One record per step from 1 on; a name's "_" stands for its "/"."""
    names = {name: name.replace("__", "/") for name in columns}
    count = len(next(iter(columns.values())))
    return [{"step": i + 1, "wall_s": 36.0 * (i + 1), **{names[n]: v[i] for n, v in columns.items()}} for i in range(count)]


def test_columns_hold_every_number_and_one_for_those_that_never_change() -> None:
    found = columns_of(records_of(a__x=[1.0, 2.0, None], a__same=[7.0, 7.0, 7.0], a__rare=[None, None, 0.5]))
    assert found.steps == [1, 2, 3]
    assert found.hours == [0.01, 0.02, 0.03]
    assert found.names == {"a/x": [1.0, 2.0, None], "a/same": 7.0, "a/rare": [None, None, 0.5]}


def test_a_long_run_is_put_together_into_means_and_maxima() -> None:
    count = 3 * MAX_POINTS
    values: list[float | None] = [float(i % 3) for i in range(count)]
    values[0] = None
    found = columns_of(records_of(a__x=values, a__x_max=values, a__none=[None] * count))
    assert len(found.steps) == MAX_POINTS
    assert found.steps[:2] == [3, 6]
    assert found.steps[-1] == count
    means, maxima = found.names["a/x"], found.names["a/x_max"]
    assert isinstance(means, list)
    # a missing value is in no mean: 0 (missing), 1, 2
    assert means[:2] == [1.5, 1.0]
    assert maxima == 2.0
    assert found.names["a/none"] == [None] * MAX_POINTS


def test_metrics_beyond_the_limit_are_counted() -> None:
    record: MetricsRecord = {
        "step": 1,
        **{f"actor/{i}": float(i) for i in range(MAX_NAMES + 3)},
        "validation/sampled/mean": 1.0,
    }
    found = columns_of([record])
    assert len(found.names) == MAX_NAMES
    assert found.left_out == 3


def test_a_run_without_steps_has_no_columns() -> None:
    assert columns_of([]).names == {}
    assert sweeps_of([], {}) == {}
    assert marks_of([], []) == []


def test_sweeps_stand_at_the_version_that_was_swept() -> None:
    prefix = "validation/greedy/"
    swept = {f"{prefix}version": 4.0, f"{prefix}mean": 0.5, f"{prefix}math": 0.25, f"{prefix}oldest_version": 4.0}
    records: list[MetricsRecord] = [
        {"step": 1},
        {"step": 6, **swept},
        {"step": 9, **swept, f"{prefix}version": 8.0, f"{prefix}logic": 0.75},
    ]
    found = sweeps_of(records, {})
    assert found["greedy"].versions == [4, 8]
    assert found["greedy"].names == {"mean": [0.5, 0.5], "math": [0.25, 0.25], "logic": [None, 0.75]}
    assert set(found) == {"greedy"}
    after = {"greedy": {"version": 9, "mean": 0.6, "by_task": {"math/a": 0.2, "math/b": 1.0}}}
    ended = sweeps_of(records, {"after": after})["greedy"]
    assert ended.versions == [4, 8, 9]
    assert ended.names["math"] == [0.25, 0.25, 0.6]
    assert ended.names["math/b"] == [None, None, 1.0]


def test_resets_and_stages_are_marked_where_they_happened() -> None:
    records = records_of(stage__index=[0.0, 0.0, 1.0, 1.0])
    records[2]["reference/reset_kl"] = 1.0
    stages = [StageConfig(name="short", steps=2), StageConfig(name="long")]
    marks = [(mark.kind, mark.step, mark.last_step, mark.words) for mark in marks_of(records, stages)]
    assert marks == [
        ("stage", 1, 2, "short"),
        ("reset", 3, 3, "reset of the reference (kl)"),
        ("stage", 3, 4, "long"),
    ]


def test_an_alert_is_marked_with_the_number_and_the_answer() -> None:
    records = records_of(alert__lr_share=[1.0, 0.5])
    records[1] |= {"alert/kl_above": 0.71, "alert/answer_lower_lr": 1.0}
    marks = [(mark.kind, mark.step, mark.words) for mark in marks_of(records, [])]
    assert marks == [("alert", 2, "alert: alerts.kl_above was passed by 0.71 (answer: lower_lr)")]
    # as a file has a number that is not finite
    records[1]["alert/kl_above"] = None
    assert (
        marks_of(records, [])[0].words == "alert: alerts.kl_above was passed by a number that is not finite (answer: lower_lr)"
    )


def test_faults_of_neighbouring_steps_are_one_mark_with_their_sum() -> None:
    lost = [0.0, 2.0, 1.0, 0.0, 0.0, None, 4.0]
    marks = marks_of(records_of(buffer__lost_leases=lost, actor__num_actors=[3.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]), [])
    assert [(mark.kind, mark.step, mark.last_step, mark.words.split(":")[0]) for mark in marks] == [
        ("fault", 2, 3, "3 leases were lost"),
        ("fault", 2, 2, "actors went from 3 to 1"),
        ("fault", 7, 7, "4 leases were lost"),
    ]


def test_a_learner_that_started_again_is_marked_at_the_version_that_it_went_on_from(tmp_path: Path) -> None:
    log = tmp_path / "learner.log"
    assert restarts_of(log) == []
    assert '"learner at version %d of %d, generation %d"' in (ROOT / "learner" / "main.py").read_text()
    began = "2026-11-30 11:02:49,632 INFO prolong.learner.main: learner at version {} of 64, generation 1\n"
    log.write_text(began.format(0) + "Killed\n" + began.format(12) + "stage short begins at version 20\n" + began.format(24))
    assert [(mark.kind, mark.step) for mark in restarts_of(log)] == [("fault", 12), ("fault", 24)]


def test_of_a_single_sweep_there_is_nothing_after_it() -> None:
    prefix = "validation/greedy/"
    record: MetricsRecord = {
        "step": 2,
        f"{prefix}version": 1.0,
        f"{prefix}mean": 0.5,
        f"{prefix}math": 0.5,
        f"{prefix}math/sum": 0.5,
    }
    before = {"version": 1, "mean": 0.5, "by_task": {"math/sum": 0.5}}
    assert before_and_after({}, sweeps_of([record], {})) == {"greedy": [before, None]}
    later = {**record, f"{prefix}version": 9.0}
    assert before_and_after({}, sweeps_of([record, later], {})) == {"greedy": [before, {**before, "version": 9}]}
