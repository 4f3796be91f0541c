"""Stages and resets over whole histories, without a model: the outcomes of every step's evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prolong.common.config.algorithm import ReferenceConfig, StageConfig
from prolong.common.config.choices import ResetSource
from prolong.common.config.sections import CheckpointConfig, Config, ModelConfig, RunConfig, ValidationConfig
from prolong.common.metrics import read_metrics
from prolong.learner.reset_triggers import Evidence, ResetState
from prolong.learner.schedule import Schedule, StageState, StepOutcome, next_stage, outcomes_of


def config(stages: list[StageConfig], *, steps: int = 100, **reference) -> Config:
    return Config(
        run=RunConfig(steps=steps),
        model=ModelConfig(path="nowhere"),
        validation=ValidationConfig(every=5),
        checkpoint=CheckpointConfig(every=5),
        reference=ReferenceConfig(**reference),
        stages=stages,
    )


def play(cfg: Config, steps: int, scores: dict[int, float] | None = None, kl: dict[int, float] | None = None):
    """(version, reset, stage) of every step that led somewhere, and the schedule afterwards."""
    schedule, eventful = Schedule(cfg, StageState(), ResetState()), []
    for version in range(1, steps + 1):
        if schedule.ended(version - 1):
            break
        mean = (scores or {}).get(version)
        score = None if mean is None else (version - 1, mean)
        outcome = schedule.step_outcome(Evidence(version=version, kl=(kl or {}).get(version, 0.0), score=score))
        if outcome != StepOutcome():
            eventful.append((version, outcome.reset, outcome.stage))
    return eventful, schedule


def test_the_reference_takes_every_so_many_th_policy_into_its_average_as_the_stage_says() -> None:
    stages = [StageConfig(name="a", steps=4), StageConfig(name="b", reference={"ema": 0.9, "ema_every": 3})]
    cfg = config(stages, steps=12)
    schedule, taken = Schedule(cfg, StageState(), ResetState()), []
    for version in range(1, 13):
        schedule.step_outcome(Evidence(version=version))
        taken += [version] * schedule.averages_reference(version)
    assert taken == [6, 9, 12]
    assert not Schedule(config([]), StageState(), ResetState()).averages_reference(3)


def test_stages_by_steps_reset_as_they_say_and_end_the_run() -> None:
    stages = [StageConfig(name="a", steps=3), StageConfig(name="b", steps=2, reset=True), StageConfig(name="c", steps=2)]
    eventful, schedule = play(config(stages), 50)
    assert eventful == [(3, "stage", True), (5, "", True)]
    assert schedule.stage == StageState(index=3, started=7)
    assert schedule.ended(7)
    assert schedule.resets.count == 1


def test_a_stage_ends_at_its_target_but_not_for_a_score_of_before_it() -> None:
    stages = [StageConfig(name="a", steps=4), StageConfig(name="b", target=0.5), StageConfig(name="c")]
    eventful, schedule = play(config(stages), 12, scores={3: 0.9, 4: 0.9, 7: 0.49, 9: 0.5})
    assert eventful == [(4, "", True), (9, "", True)]
    assert not schedule.ended(12)  # the last stage lasts until run.steps


def test_a_trigger_ends_a_stage_and_the_reset_is_the_one_that_the_next_begins_with() -> None:
    stages = [StageConfig(name="a", on_trigger=True), StageConfig(name="b", reset=True, reference={"kl_above": 0.0})]
    eventful, schedule = play(config(stages, kl_above=1.0), 9, kl={4: 2.0, 6: 9.0})
    assert eventful == [(4, "kl", True)]
    assert schedule.resets.count == 1


def test_a_trigger_inside_a_stage_resets_and_the_stage_goes_on() -> None:
    eventful, _ = play(config([StageConfig(name="a", steps=8)], reset_every=3), 20)
    assert eventful == [(3, "every", False), (6, "every", False)]


def test_a_stages_own_triggers_hold_while_it_lasts() -> None:
    stages = [StageConfig(name="a", steps=4), StageConfig(name="b", steps=4, reference={"reset_every": 2})]
    eventful, _ = play(config(stages), 20)
    assert eventful == [(4, "", True), (5, "every", False), (7, "every", False)]


def test_a_run_is_over_at_its_last_step_and_no_reset_is_made_then() -> None:
    eventful, schedule = play(config([], steps=6, reset_every=3), 20)
    assert eventful == [(3, "every", False)]
    assert schedule.ended(6)


def test_without_stages_the_state_never_moves() -> None:
    assert next_stage(StageState(), [], version=9, fired=True, score=(8, 1.0)) == StageState()


def test_what_a_reset_to_the_best_may_need_is_protected() -> None:
    state = ResetState(record=0.5, record_version=10, scored=15)
    cfg = config([], source=ResetSource.best)
    protected = Schedule(cfg, StageState(), state).protected()
    assert {10, 20, 25} <= protected
    assert not {5, 15} & protected
    assert Schedule(config([]), StageState(), state).protected() == frozenset()


def test_the_metrics_of_a_run_give_its_outcomes_again(tmp_path: Path) -> None:
    cfg = config([StageConfig(name="a", steps=6), StageConfig(name="b", reset=True)], kl_above=0.4, plateau=2, cooldown=1)
    rows, lived, schedule = [], [], Schedule(cfg, StageState(), ResetState())
    for version in range(1, 30):
        score = (version - 1, 0.3 + 0.01 * (version % 4)) if version % 3 == 0 else None
        seen = Evidence(version=version, kl=0.1 + 0.3123456789 * (version % 13 == 0), score=score, asked=version == 17)
        lived.append((version, schedule.step_outcome(seen)))
        row = {"step": version, "reference/kl": seen.kl, "reference/asked": float(seen.asked)}
        rows.append(
            row if score is None else row | {"validation/sampled/version": score[0], "validation/sampled/mean": score[1]}
        )
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(outcomes_of(cfg, read_metrics(path))) == lived
    assert {"kl", "stage", "asked", "plateau"} <= {outcome.reset for _, outcome in lived}


def test_a_target_without_validation_is_refused() -> None:
    with pytest.raises(Exception, match=r"validation\.every = 0: expected above 0"):
        Config(model=ModelConfig(path="nowhere"), stages=[StageConfig(name="a", target=0.5)])
