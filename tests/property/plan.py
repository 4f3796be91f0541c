"""What one schedule is made of, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from prolong.common.algorithm import StageConfig
from prolong.common.config import (
    BufferConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    Preference,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    Straggler,
    ValidationConfig,
    WeightsConfig,
)

TOKENS = 4  # of every rollout
SOURCES = ("odd", "even", "rare")  # of prompts


@dataclass(kw_only=True)
class Plan:
    """What a schedule is made of. `draw` makes one from a seed."""

    seed: int
    batch: int
    eta: int
    steps: int
    straggler: Straggler
    preference: Preference
    dynamic: bool
    max_filtered: float
    zero_spread: float  # share of groups without signal
    actors: int
    capacity: int
    think_s: float  # mean time of a rollout
    heavy: float  # share of tickets that take ten times as long
    hang: float  # share of tickets that never end
    lag_s: float  # mean time until weights are applied
    train_s: float  # mean time of a step
    latency_s: float
    crash: float  # chance per ticket that the actor dies with it
    returned: float  # chance per ticket that it is handed back
    duplicate: float  # chance per group that it is sent twice
    broken: float  # chance per heartbeat that the connection breaks
    bad_weights: float  # chance per update that it fails, or is never answered
    learner_crash: float  # chance per step
    forget: float  # chance that a learner that restarts has lost its checkpoints
    buffer_crash: float  # chance per step
    heldout: int
    every: int  # versions between validation sweeps
    checkpoint: int
    keep: int
    stages: list[Phase]  # one or more
    last: int  # version at which the learner ends the run: `steps`, or earlier without warning
    resets: float  # chance per batch that somebody asks for a reset while the learner trains it

    @classmethod
    def draw(cls, seed: int) -> Plan:
        rng = random.Random(seed)
        troubled = rng.random() < 0.6
        restarts = rng.random() < 0.35
        return cls(
            seed=seed,
            batch=rng.choice((1, 2, 2, 3, 4)),
            eta=rng.choice((0, 1, 1, 2, 3)),
            steps=rng.randint(2, 5),
            straggler=rng.choice(tuple(Straggler)),
            preference=rng.choice(tuple(Preference)),
            dynamic=rng.random() < 0.7,
            max_filtered=rng.choice((0.0, 0.5, 1.0, 2.0)),
            zero_spread=rng.choice((0.0, 0.3, 0.8)),
            actors=rng.choice((1, 1, 2, 3)),
            capacity=rng.choice((1, 2, 4, 8)),
            think_s=rng.choice((0.2, 1.0, 4.0)),
            heavy=rng.choice((0.0, 0.2)),
            hang=rng.choice((0.0, 0.05)) if troubled else 0.0,
            lag_s=rng.choice((0.05, 1.0, 6.0)),
            train_s=rng.choice((0.1, 1.0, 3.0)),
            latency_s=rng.choice((0.0, 0.05, 0.5)),
            crash=rng.choice((0.0, 0.03, 0.1)) if troubled else 0.0,
            returned=rng.choice((0.0, 0.05)) if troubled else 0.0,
            duplicate=rng.choice((0.0, 0.2)) if troubled else 0.0,
            bad_weights=rng.choice((0.0, 0.1)) if troubled else 0.0,
            learner_crash=rng.choice((0.1, 0.25)) if restarts else 0.0,
            forget=rng.choice((0.0, 0.5)),
            buffer_crash=0.25 if restarts and rng.random() < 0.3 else 0.0,
            heldout=rng.choice((0, 0, 1, 2)),
            every=rng.choice((0, 1, 2)),
            checkpoint=rng.choice((1, 2, 3)),
            keep=rng.choice((1, 2)),
            stages=draw_stages(seed),
            last=0,
            resets=rng.choice((0.0, 0.5)),
            broken=rng.choice((0.0, 0.1)) if troubled else 0.0,
        ).ending(rng)

    def ending(self, rng: random.Random) -> Plan:
        self.last = rng.randint(1, self.steps) if rng.random() < 0.3 else self.steps
        return self

    def config(self) -> Config:
        return Config(
            run=RunConfig(steps=self.steps, seed=self.seed),
            model=ModelConfig(path="none"),
            data=DataConfig(train=[SourceConfig(file=f"{name}.jsonl", weight=float(name != "rare")) for name in SOURCES]),
            sampling=SamplingConfig(n=2, max_tokens=TOKENS),
            buffer=BufferConfig(
                batch_groups=self.batch,
                eta=self.eta,
                straggler=self.straggler,
                preference=self.preference,
                dynamic_sampling=self.dynamic,
                max_filtered=self.max_filtered,
                lease_s=60.0,
                heartbeat_s=2.0,
                silence_s=10.0,
            ),
            validation=ValidationConfig(every=self.every, n=2, temperature=0.6, max_tokens=TOKENS),
            checkpoint=CheckpointConfig(every=self.checkpoint, keep=self.keep),
            weights=WeightsConfig(timeout_s=20.0),
            stages=[phase.config(index) for index, phase in enumerate(self.stages)],
        )


@dataclass(kw_only=True, frozen=True)
class Phase:
    """One stage."""

    steps: int  # after which the next begins; the last one goes on
    n: int
    weights: dict[str, float]

    def config(self, index: int) -> StageConfig:
        sampling = {"n": self.n, "temperature": 1.0 + index}  # tells the stages apart
        return StageConfig(name=f"s{index}", on_trigger=True, sampling=sampling, data={"weights": self.weights})


def draw_stages(seed: int) -> list[Phase]:
    rng = random.Random(f"stages {seed}")

    def phase() -> Phase:
        weights = {name: rng.choice((0.0, 1.0, 2.5)) for name in SOURCES} | {rng.choice(SOURCES): 1.0}
        return Phase(steps=rng.randint(1, 2), n=rng.choice((2, 2, 3, 4)), weights=weights)

    return [phase() for _ in range(rng.choice((1, 2, 3)))]
