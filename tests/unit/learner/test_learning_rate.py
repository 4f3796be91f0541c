"""Warm-up and decay of the learning rate, over a run, over its stages, and after a reset."""

import math
from typing import Any

import pytest
from prolong.common.config.algorithm import StageConfig
from prolong.common.config.choices import LrSchedule
from prolong.common.config.learner import LrScheduleConfig
from prolong.common.config.sections import Config
from prolong.common.errors import ConfigError
from prolong.launch.recipes import compose
from prolong.learner.learning_rate import ess_factor, lr_factor
from prolong.learner.reset_triggers import Evidence, ResetState
from prolong.learner.schedule import Schedule, StageState


def factors(steps: int, **settings: Any) -> list[float]:
    cfg = LrScheduleConfig(**settings)
    return [lr_factor(cfg, step=step, steps=steps, since_reset=step) for step in range(steps)]


def test_without_settings_the_rate_is_that_of_the_configuration_to_the_bit() -> None:
    assert factors(5) == [1.0] * 5


def test_an_update_on_unequal_weights_takes_the_root_of_its_effective_sample_size() -> None:
    assert ess_factor(0.25, 1.0) == 0.5
    assert ess_factor(0.2, 0.8) == 0.5
    assert ess_factor(0.9, 0.8) == 1.0, "a batch that is better than on policy by chance takes the rate as it is"
    assert ess_factor(0.25, 0.0) == 1.0


def test_warm_up_rises_in_equal_parts_from_above_zero() -> None:
    assert factors(6, warmup=4) == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


def test_linear_falls_from_the_end_of_the_warm_up_to_the_end_of_the_run() -> None:
    expected = [1 / 3, 2 / 3, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert factors(7, kind=LrSchedule.linear, warmup=2) == pytest.approx(expected)


def test_cosine_falls_along_half_a_cosine_to_its_final_share_and_stays_there() -> None:
    made = factors(7, kind=LrSchedule.cosine, decay=4, final=0.1)
    wave = [0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)]
    assert made == pytest.approx([*wave, 0.1, 0.1, 0.1])


def test_warmup_stable_decay_falls_over_the_last_steps() -> None:
    made = factors(8, kind=LrSchedule.warmup_stable_decay, warmup=1, decay=4, final=0.2)
    assert made == pytest.approx([0.5, 1, 1, 1, 1.0, 0.8, 0.6, 0.4])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup": -1}, "learner.lr_schedule.warmup = -1: expected 0 or more"),
        ({"kind": "warmup_stable_decay"}, "learner.lr_schedule.decay = 0: expected above 0 with"),
        ({"final": 1.5}, r"learner.lr_schedule.final = 1.5: expected in \[0, 1\]"),
        ({"warm_up": 3}, "learner.lr_schedule.warm_up = 3: unknown key; did you mean learner.lr_schedule.warmup"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose("demo", [f"learner.lr_schedule.{name}={value}" for name, value in settings.items()])
    inner = ", ".join(f"{name}: {value}" for name, value in settings.items())
    with pytest.raises(ConfigError, match=rf"stage a \(stages.0\): {said}"):
        compose("demo", [f"stages=[{{name: a, learner: {{lr_schedule: {{{inner}}}}}}}]"])


def rates(cfg: Config, stage: StageState, resets: ResetState, versions: range) -> list[float]:
    schedule = Schedule(cfg, stage, resets)
    made = []
    for version in versions:
        made.append(schedule.cfg.learner.lr * schedule.lr_factor(version))
        schedule.step_outcome(Evidence(version=version + 1))
    return made


def staged() -> Config:
    cfg = Config()
    cfg.model.path, cfg.run.steps = "m", 12
    cfg.learner.lr, cfg.learner.lr_schedule = 1.0, {"warmup": 1}
    own = {"lr": 3.0, "lr_schedule": {"kind": "linear", "final": 0.5}}
    cfg.stages = [StageConfig(name="a", steps=4), StageConfig(name="b", steps=4, learner=own), StageConfig(name="c")]
    return cfg


def test_a_stage_brings_its_own_schedule_which_counts_from_its_begin() -> None:
    made = rates(staged(), StageState(), ResetState(), range(12))
    assert made == pytest.approx([0.5, 1, 1, 1, 3, 2.625, 2.25, 1.875, 0.5, 1, 1, 1])


def test_a_resumed_run_goes_on_with_the_same_rates() -> None:
    whole = rates(staged(), StageState(), ResetState(), range(12))
    assert rates(staged(), StageState(index=1, started=4), ResetState(), range(6, 12)) == whole[6:]


@pytest.mark.parametrize("clears", [True, False])
def test_a_reset_that_clears_adamw_warms_up_again_and_the_decay_goes_on(clears: bool) -> None:
    cfg = Config()
    cfg.model.path, cfg.run.steps = "m", 8
    cfg.learner.lr, cfg.learner.lr_schedule = 1.0, {"kind": "linear", "warmup": 1, "decay": 10}
    cfg.reference.reset_every, cfg.reference.reset_optimizer = 4, clears
    again = 0.5 if clears else 1.0
    made = rates(cfg, StageState(), ResetState(), range(8))
    assert made == pytest.approx([0.5, 1.0, 0.9, 0.8, again * 0.7, 0.6, 0.5, 0.4])
