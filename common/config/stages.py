"""The configuration of each stage: that of the run, with the sections of the stage laid over it.

A run without `stages` is one stage. The learner decides which stage the run is in (learner/schedule.py) and tells the buffer,
which issues tickets accordingly. Tickets and groups under way keep the settings that they were issued with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import ConfigError, require
from .algorithm import StageConfig
from .sections import Config
from .trees import (
    adaptive_config,
    alerts_config,
    build_section,
    curriculum_config,
    lora_config,
    lr_schedule_config,
    to_tree,
)

# section -> the keys that a stage may change; None: all
CHANGEABLE = {
    "sampling": None,
    "data": ("weights",),
    "learner": ("lr", "lr_schedule"),
    "objective": None,
    "rewards": None,
    "reference": None,
}


def staged_configs(cfg: Config) -> list[Config]:
    """The configuration of every stage, in order; [cfg] for a run without stages.

    Raises: ConfigError naming stages.INDEX.SECTION.KEY for a key that no stage may change, and as `build_section` does.
    """
    lora_config(cfg.model)
    adaptive_config(cfg.buffer)
    alerts_config(cfg)
    curriculum_config(cfg)
    if not cfg.stages:
        lr_schedule_config(cfg.learner)
        return [cfg]
    _check_lengths(cfg.stages)
    return [_staged(cfg, index, stage) for index, stage in enumerate(cfg.stages)]


def total_steps(cfg: Config) -> int:
    """The largest number of steps that the run can take: `run.steps`, or fewer if its stages end before."""
    lengths = [stage.steps for stage in cfg.stages]
    return min(cfg.run.steps, sum(lengths)) if lengths and all(lengths) else cfg.run.steps


def _check_lengths(stages: list[StageConfig]) -> None:
    names = [stage.name for stage in stages]
    require(len(set(names)) == len(names), "stages.*.name", names, "a different name for every stage")
    for index, stage in enumerate(stages[:-1]):
        ends = stage.steps > 0 or stage.on_trigger or stage.target > 0
        expected = "a number of steps, on_trigger or target: otherwise the next stage never begins"
        require(ends, f"stages.{index}.steps", stage.steps, expected)


def _staged(cfg: Config, index: int, stage: StageConfig) -> Config:
    tree: dict[str, Any] = to_tree(replace(cfg, stages=[]))
    for section, keys in CHANGEABLE.items():
        for key, value in getattr(stage, section).items():
            allowed = keys is None or key in keys
            named = f"stages.{index}.{section}.{key}"
            require(allowed, named, value, f"one of {', '.join(keys or ())}: nothing else of this section changes in a run")
            tree[section][key] = value
    try:
        staged = build_section(Config, tree)
        lr_schedule_config(staged.learner)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name} (stages.{index}): {error}") from error
    had, has = cfg.objective.kl_beta > 0, staged.objective.kl_beta > 0
    fixed = "above 0, as in the run" if had else "0, as in the run: set objective.kl_beta and let stages lower it"
    require(had == has, f"stages.{index}.objective.kl_beta", staged.objective.kl_beta, fixed)
    return staged
