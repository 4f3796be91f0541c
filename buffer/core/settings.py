"""The part of a run's configuration that the buffer's core needs, by section."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.config.sections import BufferConfig, CheckpointConfig, Config, ValidationConfig
from ...common.config.stages import staged_configs, total_steps
from ..tickets.settings import TicketSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """The settings of one run. Main makes them once, and each part of the core is given the section that it needs."""

    run: str  # name
    seed: int
    steps: int  # the most that the run can take, over all stages
    stages: list[TicketSettings]
    buffer: BufferConfig
    validation: ValidationConfig
    checkpoint: CheckpointConfig
    weights_timeout_s: float  # of one broadcast of weights
    model_ids: int | None  # number of token ids that the model knows; None: unknown

    @classmethod
    def from_config(cls, cfg: Config, model_ids: int | None = None) -> RunSettings:
        """The settings of a configuration. Raises ConfigError for a stage that cannot be applied to it."""
        return cls(
            run=cfg.run.name,
            seed=cfg.run.seed,
            steps=total_steps(cfg),
            stages=[TicketSettings.from_config(staged) for staged in staged_configs(cfg)],
            buffer=cfg.buffer,
            validation=cfg.validation,
            checkpoint=cfg.checkpoint,
            weights_timeout_s=cfg.weights.timeout_s,
            model_ids=model_ids,
        )
