"""Alerts over whole histories, without a model; then in the learner's loop, on recorded batches."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from prolong.buffer.journal.journal import read_journal
from prolong.common.config.alerts import LIMITS, AlertsConfig
from prolong.common.config.choices import AlertAnswer
from prolong.common.config.run_files import run_paths
from prolong.common.config.sections import Config, ModelConfig, ObjectiveConfig
from prolong.common.config.stages import staged_configs
from prolong.common.config.trees import alerts_config
from prolong.common.errors import AlertStop, ConfigError
from prolong.common.metrics import read_metrics
from prolong.learner.alerts import WATCHED, Alert, AlertState, alert_metrics, judge
from prolong.learner.main import Learner
from prolong.learner.ranks import Ranks
from prolong.learner.reset_triggers import ResetState
from prolong.learner.schedule import Schedule, StageState, outcomes_of
from prolong.learner.source.recorded import RecordedSource

from tests.support.recorded_run import recorded_steps_config


def raised(cfg: AlertsConfig, kl: Sequence[float | None], state: AlertState | None = None, first: int = 1) -> list[int]:
    """The versions whose step raises an alert, when reference/kl takes these values."""
    state, versions = state or AlertState(), []
    for version, value in enumerate(kl, first):
        state, alerts = judge(state, version, {"reference/kl": value}, None, cfg)
        versions += [version for alert in alerts if alert.limit == "kl_above"]
    return versions


def test_a_limit_counts_when_it_is_passed_for_several_steps_in_a_row() -> None:
    cfg = AlertsConfig(kl_above=0.5, steps=3, pause=0)
    assert raised(cfg, [0.6, 0.6, 0.4, 0.6, 0.6, 0.6, 0.5]) == [6]
    # and counts from the beginning again after that
    assert raised(cfg, [0.6] * 7) == [3, 6]


def test_an_alert_is_not_raised_again_within_its_pause() -> None:
    assert raised(AlertsConfig(kl_above=0.5, steps=1, pause=4), [1.0] * 12) == [1, 6, 11]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200, -1e200, None])
def test_a_number_that_a_record_cannot_hold_is_beyond_every_limit(value: float | None) -> None:
    """Whoever reads the record finds null there, and the same alerts."""
    cfg = AlertsConfig(kl_above=0.5, entropy_below=0.1, steps=1)
    _, alerts = judge(AlertState(), 1, {"reference/kl": value, "learner/entropy": value}, None, cfg)
    assert [alert.limit for alert in alerts] == ["kl_above", "entropy_below"]


def test_a_number_that_the_record_lacks_is_beyond_none() -> None:
    state, alerts = judge(AlertState(), 1, {}, None, AlertsConfig(kl_above=0.5, entropy_below=0.1, steps=1))
    assert (alerts, state.beyond) == ([], {"kl_above": 0, "entropy_below": 0})


def test_limits_below_look_the_other_way() -> None:
    cfg = AlertsConfig(entropy_below=0.1, ess_below=0.5, steps=1)
    _, alerts = judge(AlertState(), 1, {"learner/entropy": 0.05, "policy/ess": 0.5}, None, cfg)
    assert alerts == [Alert("entropy_below", 0.05, 0.1, AlertAnswer.log)]


def test_a_validation_score_counts_by_itself_and_against_the_best() -> None:
    cfg, state, seen = AlertsConfig(score_drop=0.1, steps=5, pause=0), AlertState(), []
    for version, score in enumerate([0.3, None, 0.5, None, 0.41, 0.39, 0.6, 0.45], 1):
        state, alerts = judge(state, version, {}, None if score is None else (version - 1, score), cfg)
        seen += [(version, round(alert.value, 6)) for alert in alerts]
    assert seen == [(6, 0.11), (8, 0.15)]
    assert state.best == 0.6


@pytest.mark.parametrize("score", [math.nan, math.inf, 1e200])
def test_a_validation_score_that_a_record_cannot_hold_does_not_spoil_those_after_it(score: float) -> None:
    cfg, state = AlertsConfig(score_drop=0.1, pause=0), AlertState()
    for version, value in enumerate([score, 0.5, score, 0.45], 1):
        state, alerts = judge(state, version, {}, (version, value), cfg)
        assert alerts == []
    assert state.best == 0.5


def test_a_history_cut_anywhere_gives_the_same_alerts() -> None:
    cfg = AlertsConfig(kl_above=0.5, steps=3, pause=5, answer=AlertAnswer.lower_lr)
    kl = [0.6 if step % 7 else 0.4 for step in range(60)]
    whole = raised(cfg, kl)
    for cut in range(60):
        state = AlertState()
        for version, value in enumerate(kl[:cut], 1):
            state, _ = judge(state, version, {"reference/kl": value}, None, cfg)
        assert raised(cfg, kl[:cut]) + raised(cfg, kl[cut:], state, cut + 1) == whole


def test_each_alert_that_lowers_the_rate_multiplies_it_once_a_step() -> None:
    cfg = AlertsConfig(kl_above=0.5, entropy_below=0.1, steps=1, pause=0, answer=AlertAnswer.lower_lr, lr_factor=0.25)
    state, alerts = judge(AlertState(), 1, {"reference/kl": 1.0, "learner/entropy": 0.0}, None, cfg)
    assert (len(alerts), state.lr_share) == (2, 0.25)
    state, _ = judge(state, 2, {"reference/kl": 1.0}, None, cfg)
    assert state.lr_share == 0.0625


def test_every_limit_but_the_score_watches_a_number_and_may_have_an_answer_of_its_own() -> None:
    assert {*WATCHED, "score_drop"} == set(LIMITS)
    cfg = AlertsConfig(kl_above=1.0, ess_below=0.1, answers={"kl_above": AlertAnswer.stop})
    assert (cfg.answer_to("kl_above"), cfg.answer_to("ess_below")) == (AlertAnswer.stop, AlertAnswer.log)


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        ({"kl_over": 1}, "alerts.kl_over = 1: unknown key; did you mean alerts.kl_above"),
        ({"kl_above": -1.0}, "alerts.kl_above = -1.0: expected 0 or more"),
        ({"answer": "panic"}, "alerts.answer = 'panic': expected one of log, reset, lower_lr, stop"),
        ({"answers": {"kl": "stop"}}, "alerts.answers.kl = 'stop': expected one of the limits kl_above"),
        ({"answers": {"kl_above": "stop"}}, "alerts.answers.kl_above = 'stop': expected alerts.kl_above above 0"),
        ({"score_drop": 0.1}, "alerts.score_drop = 0.1: expected 0 with validation.every = 0"),
        ({"lr_factor": 1.5}, "alerts.lr_factor = 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(alerts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        staged_configs(Config(model=ModelConfig(path="m"), alerts=alerts))
    assert message in str(error.value)


def test_a_limit_on_the_kl_needs_a_reference() -> None:
    cfg = Config(model=ModelConfig(path="m"), objective=ObjectiveConfig(kl_beta=0.0), alerts={"kl_above": 0.5})
    with pytest.raises(ConfigError, match=r"alerts.kl_above = 0.5: expected 0 with objective.kl_beta = 0"):
        alerts_config(cfg)


# --- in the learner's loop ---


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return recorded_steps_config(tmp_path)


class LiveLike(RecordedSource):
    """Recorded batches that an alert can stop, as it stops a live buffer's."""

    halted: Exception | None = None

    def halt(self, reason: Exception) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.halted = reason

    def _read(self, version: int):
        if self.halted is not None:
            raise self.halted
        return super()._read(version)


def train(cfg: Config, kind: type[RecordedSource] = RecordedSource) -> list[dict]:
    """Train on the recorded batches; the records of the steps."""
    source = kind(cfg, Ranks(), read_journal(run_paths(cfg).journal), threading.Event())
    learner = Learner.start(cfg, Ranks(), source, torch.device("cpu"))
    try:
        learner.run()
    finally:
        learner.recorder.close()
        source.close()
    return read_metrics(run_paths(cfg).metrics)


# every gradient has a norm above this
ALWAYS = {"grad_norm_above": 1e-9, "steps": 2, "pause": 1}


def test_alerts_and_answers_are_records_of_their_step_and_a_file_of_records_gives_them_again(cfg: Config) -> None:
    cfg.alerts = {**ALWAYS, "answer": "lower_lr"}
    records = train(cfg)
    given = [
        (record["step"], record["alert/grad_norm_above"], record["learner/grad_norm"])
        for record in records
        if "alert/grad_norm_above" in record
    ]
    assert [(step, value) for step, value, _ in given] == [(2, given[0][2]), (4, given[1][2])]
    assert [record["alert/lr_share"] for record in records] == [1.0, 0.5, 0.5, 0.25]
    assert [record["learner/lr"] for record in records] == [cfg.learner.lr * share for share in (1.0, 1.0, 0.5, 0.5)]
    assert [record.get("alert/answer_lower_lr") for record in records] == [None, 1.0, None, 1.0]
    again = [(version, [alert.limit for alert in outcome.alerts]) for version, outcome in outcomes_of(cfg, records)]
    assert again == [(1, []), (2, ["grad_norm_above"]), (3, []), (4, ["grad_norm_above"])]


def test_an_alert_may_reset_the_reference(cfg: Config) -> None:
    cfg.alerts = {**ALWAYS, "pause": 50, "answer": "reset"}
    records = train(cfg)
    assert [record["step"] for record in records if "reference/reset_alert" in record] == [2]
    assert [record["reference/epoch"] for record in records] == [0.0, 1.0, 1.0, 1.0]


def test_an_alert_that_stops_saves_the_step_and_the_run_goes_on_from_there(cfg: Config) -> None:
    cfg.alerts = {**ALWAYS, "pause": 50, "answer": "stop"}
    with pytest.raises(
        AlertStop, match=r"version 2: alert: learner/grad_norm = .* for 2 steps; the run stops; .*prolong learner"
    ):
        train(cfg, LiveLike)
    (last,) = [record for record in read_metrics(run_paths(cfg).metrics) if record["step"] == 2]
    assert last["alert/answer_stop"] == 1.0
    # the same alert rests for its pause: a run that is resumed as it is does not stop at once again
    assert [record["step"] for record in train(cfg, LiveLike)] == [1, 2, 3, 4]


def test_a_replay_records_the_stop_and_goes_on_with_what_was_trained_after_it(cfg: Config) -> None:
    cfg.alerts = {**ALWAYS, "pause": 50, "answer": "stop"}
    records = train(cfg)
    assert [record.get("alert/answer_stop") for record in records] == [None, 1.0, None, None]


def test_a_run_without_limits_records_nothing_of_alerts(cfg: Config) -> None:
    assert not [name for record in train(cfg) for name in record if name.startswith("alert")]
    schedule = Schedule(cfg, StageState(), ResetState())
    assert alert_metrics([], schedule.alerts) == {"alert/lr_share": 1.0}
