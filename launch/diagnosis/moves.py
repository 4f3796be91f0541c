"""What would make a run faster, and by how much: the planner's model of the run, with one thing changed at a time.

recorded steps --calibrate, refine--> a cluster --simulate--> steps per second as it is, and with each change

The newest steps stand for the run: what it does now, not what it did when lengths and pass rates were others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...common.config.sections import Config
from ...common.errors import ProlongError
from ...common.metrics import MetricsRecord
from ..plan.calibrate import calibrate, of_settings
from ..plan.recorded import MIN_STEPS, RecordedRun, read_recorded
from ..plan.refine import refine
from ..plan.simulation.cluster import Cluster, PoolDevice
from ..plan.simulation.result import Simulated
from ..plan.sweep import Planned, plan_one
from .diagnosis import PARTS, Improvement
from .run_records import cores_had, mean

MAX_STEPS = 40  # that are simulated
MAX_ROLLOUTS = 20_000  # of all steps of a simulation: a few seconds of one core
ENOUGH = 0.98  # of two settings this close the one with the smaller eta is better: staler groups teach less
UNCROWDED = 0.8  # cores that a learner or an actor gets by itself, at least
FULL = 0.8  # share of an actor's room that is taken when more of it may help


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The planner's word on a run."""

    moves: tuple[Improvement, ...] = ()  # the largest gain first
    why_none: str = ""
    simulated_steps_per_s: float = 0.0  # of the run as it was
    simulated_part: str = ""  # what binds in it, one of PARTS
    roofs: dict[str, float] = field(default_factory=dict)  # of the closed form, those that are finite


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """A run with one thing changed."""

    part: str
    words: str
    settings: tuple[str, ...]
    cluster: Cluster
    cfg: Config


def predict_moves(folder: Path, cores: float) -> Prediction:
    """Simulate the run in `folder`, and the same with each change. Takes seconds to a minute.

    cores: that all its processes share; 0: each process has its own.
    """
    try:
        run = newest_part(read_recorded(str(folder)))
        run = replace(run, others=other_processes(run.records, cores))
        cluster = refine(_by_itself(calibrate([run], cores), run), [run])
        given = _plan(of_settings(cluster, run), run.cfg, run)
        moves = [_improvement(_plan(change.cluster, change.cfg, run), given, change) for change in _changes(given)]
        if (larger := _larger_eta(given, run)) is not None:
            moves.append(larger)
    except ProlongError as error:
        return Prediction(why_none=str(error))
    return Prediction(
        moves=tuple(sorted(moves, key=lambda move: -move.gain)),
        simulated_steps_per_s=given.found.steps_per_s,
        simulated_part=binding_part(given.found),
        roofs={part: roof for part, roof in given.roofs.all().items() if roof != float("inf")},
    )


def within_reach(moves: Sequence[Improvement], learner_share: float) -> tuple[Improvement, ...]:
    """The moves with no larger gain than the records allow, the largest first.

    learner_share: of its time that the learner works. Nobody else can gain more than all that it waits.
    """
    most = 1 / learner_share if learner_share > 0 else float("inf")
    bounded = (
        replace(move, gain=most, steps_per_s=move.steps_per_s * most / move.gain)
        if move.part != "learner" and move.gain > most
        else move
        for move in moves
    )
    return tuple(sorted(bounded, key=lambda move: -move.gain))


def newest_part(run: RecordedRun) -> RecordedRun:
    """The run without its older steps, and with the number of actors that it really had."""
    cfg = run.cfg
    steps = max(min(MAX_ROLLOUTS // (cfg.buffer.batch_groups * cfg.sampling.n), MAX_STEPS), MIN_STEPS)
    actors = max(round(mean(run.records[-steps:], "actor/num_actors")), 1)
    return replace(run, cfg=replace(cfg, launch=replace(cfg.launch, actors=actors)), records=run.records[-steps:])


def _by_itself(cluster: Cluster, run: RecordedRun) -> Cluster:
    """The cluster with the seconds that weights take where nobody else wants the cores: the simulation adds the others."""
    speed = min(cores_had(run.records), 1.0) if run.others else 1.0
    weights = replace(cluster.weights, publish_s=cluster.weights.publish_s * speed, pause_s=cluster.weights.pause_s * speed)
    return replace(cluster, weights=weights)


def other_processes(records: Sequence[MetricsRecord], cores: float) -> float:
    """How many processes of somebody else wanted one of the shared `cores`, on average, by what the run got of them.

    Linux is fair among processes: with 2 cores, and .2 of a core for each of mine that work, there are ten.
    """
    had = cores_had(records)
    if not 0 < had < UNCROWDED:
        return 0.0
    return max(cores / had - 1 - mean(records, "actor/num_actors"), 0.0)


def binding_part(found: Simulated) -> str:
    """The part that most of a simulated learner's time goes to; its own work counts as the reason from one half on."""
    waits = {part: found.learner.get(f"wait/{part}", 0.0) for part in PARTS if part != "learner"}
    waits["staleness"] += found.learner.get("wait/stragglers", 0.0)
    return "learner" if found.learner_busy >= 0.5 else max(waits, key=lambda part: waits[part])


def _plan(cluster: Cluster, cfg: Config, run: RecordedRun) -> Planned:
    return plan_one(cluster, cfg, steps=len(run.records), seed=cfg.run.seed)


def _improvement(after: Planned, given: Planned, change: _Change) -> Improvement:
    return Improvement(
        part=change.part,
        words=change.words,
        settings=change.settings,
        gain=after.found.steps_per_s / given.found.steps_per_s,
        steps_per_s=after.found.steps_per_s,
        staleness_mean=after.found.staleness_mean,
        binds_after=binding_part(after.found),
    )


def _changes(given: Planned) -> Iterator[_Change]:
    """The changes that are tried, each by itself: twice as much of everything."""
    cluster, cfg = given.cluster, given.cfg
    (pool, actor), learner = next(iter(cluster.pools.items())), cluster.learner

    def with_actor(device: PoolDevice) -> Cluster:
        return replace(cluster, pools={pool: device})

    yield _Change(
        part="actors",
        words=f"twice the actors, each with its verifiers: {2 * actor.count} in place of {actor.count}",
        settings=(f"launch.actors={2 * actor.count}",),
        cluster=with_actor(replace(actor, count=2 * actor.count)),
        cfg=cfg,
    )
    if given.found.pools[pool].running > FULL * actor.most_running:
        yield _roomier(given, pool)
    yield _Change(
        part="learner",
        words="a learner that is twice as fast: at best twice the ranks, or a cheaper step",
        settings=(f"launch.learner_ranks={2 * cfg.launch.learner_ranks}",),
        cluster=replace(cluster, learner=replace(learner, base_s=learner.base_s / 2, per_token_s=learner.per_token_s / 2)),
        cfg=cfg,
    )
    yield from _faster_verdicts(given)
    weights = cluster.weights
    yield _Change(
        part="weights",
        words="weights that arrive in half the time: a faster link, or only what changed (weights.transport=pull)",
        settings=("weights.transport=pull",) if weights.transport != "pull" else (),
        cluster=replace(cluster, weights=replace(weights, publish_s=weights.publish_s / 2, pause_s=weights.pause_s / 2)),
        cfg=cfg,
    )


def _faster_verdicts(given: Planned) -> Iterator[_Change]:
    """More verdicts at once, and each in less time."""
    cluster, verifiers = given.cluster, given.cluster.verifiers
    if verifiers.workers:
        yield _Change(
            part="verifiers",
            words=f"twice the workers that judge: {2 * verifiers.workers} of each actor in place of {verifiers.workers}",
            settings=(f"verifiers.workers={2 * verifiers.workers}",),
            cluster=replace(cluster, verifiers=replace(verifiers, workers=2 * verifiers.workers)),
            cfg=given.cfg,
        )
    yield _Change(
        part="verifiers",
        words="verdicts in half the time",
        settings=(),
        cluster=replace(cluster, verifiers=replace(verifiers, latency_s=verifiers.latency_s / 2)),
        cfg=given.cfg,
    )


def _roomier(given: Planned, pool: str) -> _Change:
    """Twice the rollouts at once on every actor."""
    actor, cfg = given.cluster.pools[pool], given.cfg
    capacity, running = 2 * actor.capacity, 2 * actor.max_running
    settings = [f"actor.capacity={capacity}", *([f"actor.max_num_seqs={running}"] if running else [])]
    roomier = replace(actor, capacity=capacity, max_running=running)
    return _Change(
        part="actors",
        words=f"twice the rollouts in flight: {capacity} of each actor in place of {actor.capacity}",
        settings=tuple(settings),
        cluster=replace(given.cluster, pools={pool: roomier}),
        cfg=replace(cfg, actor=replace(cfg.actor, capacity=capacity, max_num_seqs=running)),
    )


def _larger_eta(given: Planned, run: RecordedRun) -> Improvement | None:
    """The smallest larger eta that gains nearly what the best one does; None where eta adapts by itself."""
    cfg = given.cfg
    if cfg.buffer.adaptive:
        return None
    tried: list[Improvement] = []
    for eta in (cfg.buffer.eta + 1, cfg.buffer.eta + 2, 2 * cfg.buffer.eta + 4):
        change = _Change(
            part="staleness",
            words=f"a larger bound on staleness: eta {eta} in place of {cfg.buffer.eta}",
            settings=(f"buffer.eta={eta}",),
            cluster=given.cluster,
            cfg=replace(cfg, buffer=replace(cfg.buffer, eta=eta)),
        )
        tried.append(_improvement(_plan(change.cluster, change.cfg, run), given, change))
    best = max(each.gain for each in tried)
    return next(each for each in tried if each.gain >= ENOUGH * best)
