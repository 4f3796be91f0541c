"""The settings of one schedule, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from prolong.common.config.algorithm import StageConfig
from prolong.common.config.choices import DispatchRule
from prolong.common.config.sections import (
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

from .faults import RESTARTS, Fault, Kind, draw_faults

TOKENS = 4  # of every rollout
WRONG = 7  # checksum of weights that are not the learner's
EVENTS_PER_GROUP = 9.0  # of a long run, about
TROUBLE = {  # faults that well-behaved processes meet, with their weights
    (Kind.kill, "actor"): 4.0,
    (Kind.leave, "actor"): 1.0,
    (Kind.pause, "actor"): 1.0,
    (Kind.pause, "learner"): 1.0,
    (Kind.pause, "buffer"): 1.0,
    (Kind.sever, "actor"): 3.0,
    (Kind.sever, "learner"): 2.0,
    (Kind.cut, "actor"): 1.0,
    (Kind.cut, "learner"): 1.0,
    (Kind.full, "buffer"): 1.0,
}
LEAVING = {
    (Kind.leave, "actor"): 20.0,
    (Kind.kill, "actor"): 3.0,
    (Kind.sever, "actor"): 2.0,
    (Kind.pause, "actor"): 1.0,
    (Kind.cut, "actor"): 1.0,
    (Kind.full, "buffer"): 0.5,
}
RELAY_TROUBLE = {
    (Kind.kill, "relay"): 2.0,
    (Kind.leave, "relay"): 1.0,
    (Kind.pause, "relay"): 1.0,
    (Kind.sever, "relay"): 1.0,
    (Kind.cut, "relay"): 1.0,
}
HARSHER = (Kind.duplicate, Kind.reorder, Kind.corrupt, Kind.lose)
RESTARTING = {(Kind.kill, "learner"): 3.0, (Kind.kill, "buffer"): 6.0, (Kind.broken, "buffer"): 1.0}
SOURCES = ("odd", "even", "rare")  # of prompts


@dataclass(kw_only=True)
class Plan:
    """The settings of a schedule. `draw` makes one from a seed."""

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
    returned: float  # chance per ticket that it is handed back
    hand_over: float  # chance per ticket that an actor that leaves hands it over
    duplicate: float  # chance per group that it is sent twice
    bad_weights: float  # chance per update that it fails, or is never answered
    heldout: int
    every: int  # versions between validation sweeps
    checkpoint: int
    keep: int
    stages: list[Phase]  # one or more
    last: int  # version at which the learner ends the run: `steps`, or earlier without warning
    resets: float  # chance per batch that a user asks for a reset while the learner trains it
    adaptive: dict[str, Any] = field(default_factory=dict)  # rules of an eta that moves
    curriculum: dict[str, Any] = field(default_factory=dict)  # rules by which prompts are drawn by their pass rates
    drift: float = 0.0  # effective sample size lost per version of age, of an eta that moves
    dispatch: DispatchRule = DispatchRule.even
    slower: float = 1.0  # how many times as long as actor-0 the last actor takes, the others in between
    skew: float = 0.0  # clocks run faster or slower by up to this share
    # of the actors and relays that pull their weights: name -> seconds that the changes of one version take
    link_s: dict[str, float] = field(default_factory=dict)
    relays: int = 0
    servers: frozenset[str] = frozenset()  # actors that serve what they pulled
    all_pull: bool = False  # the learner broadcasts nothing
    encode_s: float = 0.2  # mean time until a version is on offer
    stalls: float = 0.0  # chance per portion of a pull that its link is dead for a while
    broken_pulls: float = 0.0  # chance per portion that the pull fails
    wrong_weights: float = 0.0  # chance per pull that the engine has other weights than were offered
    faults: list[Fault] = field(default_factory=list, repr=False)
    drawn_by: str = ""  # call that draws it again
    horizon_s: float = 20_000.0  # virtual; a schedule that is not over by then is stuck
    max_events: int = 60_000

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
            returned=rng.choice((0.0, 0.05)) if troubled else 0.0,
            hand_over=random.Random(f"hand over {seed}").choice((0.0, 0.7, 1.0)),
            duplicate=rng.choice((0.0, 0.2)) if troubled else 0.0,
            bad_weights=rng.choice((0.0, 0.1)) if troubled else 0.0,
            heldout=rng.choice((0, 0, 1, 2)),
            every=rng.choice((0, 1, 2)),
            checkpoint=rng.choice((1, 2, 3)),
            keep=rng.choice((1, 2)),
            stages=draw_stages(seed),
            last=0,
            resets=rng.choice((0.0, 0.5)),
            skew=rng.choice((0.0, 0.05)),
            dispatch=random.Random(f"dispatch {seed}").choice(tuple(DispatchRule)),
            slower=random.Random(f"slower {seed}").choice((1.0, 1.0, 4.0, 10.0)),
        ).ending(rng, troubled=troubled, restarts=restarts)

    @property
    def eta_max(self) -> int:
        """The bound that holds always."""
        return self.adaptive.get("max", self.eta)

    def let_eta_adapt(self, rng: random.Random) -> None:
        """Draw rules under which eta moves often: short windows, bounds that some steps leave."""
        low, high = rng.choice(((0, 1), (0, 2), (1, 3), (0, 4)))
        self.eta = rng.randint(low, high)
        self.adaptive = {"min": low, "max": high, "ess": 0.9, "waiting": rng.choice((0.01, 0.2)), "window": rng.choice((1, 2))}
        self.drift = rng.choice((0.0, 0.03, 0.1))
        self.steps = self.last = rng.randint(6, 14)

    def ending(self, rng: random.Random, *, troubled: bool, restarts: bool) -> Plan:
        self.last = rng.randint(1, self.steps) if rng.random() < 0.3 else self.steps
        weights = (TROUBLE if troubled else {}) | (RESTARTING if restarts else {})
        gap = rng.choice((60.0, 120.0, 250.0))
        self.drawn_by = f"draw({self.seed})"
        self.faults = draw_faults(rng, weights, num=25, gap=gap, actors=self.actors, restarts=RESTARTS)
        return self

    @classmethod
    def large(cls, seed: int, *, rollouts: int, faults: int) -> Plan:
        """A long run of about so many rollouts and faults, of every kind that ZeroMQ's network has."""
        rng = random.Random(f"large {seed}")
        plan = cls.draw(seed)
        plan.batch, plan.eta, plan.actors, plan.capacity = 16, rng.choice((1, 2, 3)), 4, 256
        plan.stages = [Phase(steps=10**6, n=16, weights=dict.fromkeys(SOURCES, 1.0))]
        plan.steps = plan.last = -(-rollouts // (plan.batch * 16))
        plan.checkpoint, plan.keep, plan.every, plan.skew = 2, 3, 20, 0.05
        plan.zero_spread, plan.max_filtered = rng.choice((0.0, 0.1)), 2.0
        plan.think_s, plan.heavy, plan.hang, plan.lag_s, plan.train_s, plan.latency_s = 2.0, 0.05, 0.002, 0.3, 1.0, 0.05
        plan.returned, plan.duplicate, plan.bad_weights, plan.resets = 0.01, 0.02, 0.02, 0.05
        gap = EVENTS_PER_GROUP * plan.steps * plan.batch / faults
        plan.faults = draw_faults(
            rng, TROUBLE | RESTARTING, num=3 * faults, gap=gap, actors=plan.actors, restarts=("newest", "newest", "older")
        )
        plan.drawn_by = f"large({seed}, rollouts={rollouts}, faults={faults})"
        plan.horizon_s, plan.max_events = 1e6, 400 * plan.steps * plan.batch
        return plan

    @classmethod
    def adapting(cls, seed: int) -> Plan:
        """A schedule of `draw` whose eta moves."""
        plan = cls.draw(seed)
        plan.let_eta_adapt(random.Random(f"adapting {seed}"))
        plan.drawn_by = f"adapting({seed})"
        return plan

    @classmethod
    def planned(cls, seed: int) -> Plan:
        """A schedule of `draw` whose prompts are drawn by the plans of a curriculum."""
        plan, rng = cls.draw(seed), random.Random(f"planned {seed}")
        plan.curriculum = {"every": rng.choice((1, 1, 2, 3)), "solved": 0.5, "memory": rng.choice((0.5, 0.9))}
        plan.steps = plan.last = max(plan.steps, 6)
        plan.every, plan.heldout, plan.curriculum["plateau"] = 1, max(1, plan.heldout), rng.choice((0, 1, 2))
        plan.drawn_by = f"planned({seed})"
        return plan

    @classmethod
    def preempted(cls, seed: int) -> Plan:
        """A schedule whose actors leave again and again in the middle of their work, beside other faults."""
        plan = cls.draw(seed)
        rng = random.Random(f"preempted {seed}")
        plan.actors, plan.capacity, plan.hand_over = rng.choice((2, 3)), rng.choice((4, 8)), rng.choice((0.7, 1.0, 1.0))
        plan.think_s, plan.heavy, plan.lag_s = rng.choice((2.0, 8.0)), 0.3, rng.choice((0.05, 1.0))
        if rng.random() < 0.3:  # weights reach one actor long before another
            plan.think_s, plan.lag_s, plan.train_s, plan.eta, plan.steps = 4.0, 10.0, 0.5, 3, 12
            plan.last = plan.steps
        weights = LEAVING | (RESTARTING if rng.random() < 0.4 else {})
        plan.faults = draw_faults(rng, weights, num=60, gap=20.0, actors=plan.actors, restarts=RESTARTS)
        plan.drawn_by = f"preempted({seed})"
        return plan

    @classmethod
    def outrun(cls, seed: int) -> Plan:
        """A schedule of `preempted` in which actor-0 pulls versions long before actor-1, and is the one that leaves."""
        plan = cls.preempted(seed)
        plan.actors, plan.capacity, plan.hand_over, plan.batch, plan.eta = 2, 8, 1.0, 2, 3
        plan.all_pull, plan.link_s = True, {"actor-0": 0.02, "actor-1": 5.0}
        plan.think_s, plan.lag_s, plan.train_s, plan.steps = 6.0, 0.05, 0.5, 12
        plan.last = plan.steps
        plan.faults = [Fault(event, Kind.leave, "actor-0") for event in range(60, 2000, 150)]
        plan.drawn_by = f"outrun({seed})"
        return plan

    @classmethod
    def pulled(cls, seed: int) -> Plan:
        """A schedule of `draw` in which some actors pull, over links of any speed, perhaps through relays."""
        plan, rng = cls.draw(seed), random.Random(f"pulled {seed}")
        plan.actors = rng.choice((1, 2, 3, 4))
        plan.relays = rng.choice((0, 0, 1, 2))
        plan.all_pull = rng.random() < 0.6
        actors = [f"actor-{index}" for index in range(plan.actors)]
        pulling = actors if plan.all_pull else actors[: rng.randint(1, plan.actors)]
        speeds = (0.02, 0.5, 5.0, 40.0)
        plan.link_s = {name: rng.choice(speeds) for name in (*pulling, *(f"relay-{i}" for i in range(plan.relays)))}
        plan.servers = frozenset(name for name in pulling if rng.random() < 0.3)
        plan.encode_s = rng.choice((0.02, 1.0))
        weights: dict[tuple[Kind, str], float] = {}
        if plan.faults:
            restarts = any(fault.victim == "buffer" and fault.kind is Kind.kill for fault in plan.faults)
            weights = TROUBLE | (RELAY_TROUBLE if plan.relays else {}) | (RESTARTING if restarts else {})
            plan.stalls, plan.broken_pulls, plan.wrong_weights = (rng.choice((0.0, p)) for p in (0.01, 0.02, 0.05))
        gap = rng.choice((60.0, 120.0, 250.0))
        plan.faults = draw_faults(rng, weights, num=25, gap=gap, actors=plan.actors, restarts=RESTARTS, relays=plan.relays)
        plan.drawn_by = f"pulled({seed})"
        return plan

    @classmethod
    def harsher(cls, seed: int, kind: Kind, *, pulled: bool = False) -> Plan:
        """A schedule with one kind of fault that ZeroMQ's network does not have."""
        plan = cls.pulled(seed) if pulled else cls.draw(seed)
        rng = random.Random(f"{kind} {seed}")
        weights = {(kind, "actor"): 3.0, (kind, "learner"): 1.0, (Kind.kill, "buffer"): 0.5, (Kind.sever, "learner"): 0.5}
        plan.faults = draw_faults(rng, weights, num=100, gap=15.0, actors=plan.actors, restarts=RESTARTS)
        plan.drawn_by, plan.max_events = f"harsher({seed}, Kind.{kind}, pulled={pulled})", 20_000
        return plan

    def config(self) -> Config:
        return Config(
            run=RunConfig(steps=self.steps, seed=self.seed),
            model=ModelConfig(path="none"),
            data=DataConfig(train=[SourceConfig(file=f"{name}.jsonl", weight=float(name != "rare")) for name in SOURCES]),
            sampling=SamplingConfig(n=2, max_tokens=TOKENS),
            buffer=BufferConfig(
                batch_groups=self.batch,
                eta=self.eta,
                adaptive=self.adaptive,
                curriculum=self.curriculum,
                straggler=self.straggler,
                preference=self.preference,
                dispatch=self.dispatch,
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
