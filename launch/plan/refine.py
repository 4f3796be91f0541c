"""What no record shows of a calibrated cluster, found by simulating the recorded runs until they take as long as they took.

On a shared host that is how many cores an actor takes when nobody else wants any. Then the speeds of actors and learner are
scaled by what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .calibrate import POOL, of_settings
from .recorded import RecordedRun
from .simulation.cluster import Cluster
from .simulation.result import Simulated
from .simulation.simulate import simulate

CORES_TRIED = (0.8, 0.9, 1.0, 1.1, 1.25, 1.4)  # of the process of an engine
LIKELY_CORES, SURPRISE = 1.1, 0.05  # what is assumed where the runs do not tell, and how firmly
ROUNDS = 4  # of scaling
STALENESS_WEIGHT = 0.1  # of a version, beside a logarithm of steps per second


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFit:
    """A recorded run beside its simulation, without the first fifth of its steps."""

    name: str
    steps_per_s: float
    simulated_steps_per_s: float
    staleness_mean: float
    simulated_staleness_mean: float

    @property
    def error(self) -> float:
        """Of the steps per second, relative."""
        return self.simulated_steps_per_s / self.steps_per_s - 1


def simulate_run(cluster: Cluster, run: RecordedRun) -> Simulated:
    """The run again, on simulated devices."""
    return simulate(of_settings(cluster, run), run.cfg, steps=len(run.records), seed=run.cfg.run.seed)


def fit_of(cluster: Cluster, run: RecordedRun) -> RunFit:
    """A recorded run beside its simulation."""
    return _beside(run, simulate_run(cluster, run))


def refine(cluster: Cluster, runs: Sequence[RecordedRun]) -> Cluster:
    """The cluster with the numbers that no record shows. Simulates every run a few times."""
    if cluster.host.cores:
        tried = [_with_cores(cluster, cores) for cores in CORES_TRIED]
        cluster = min(tried, key=lambda each: _loss(_simulated(each, runs), scaled=True) + _surprise(each))
    best = cluster
    found = least = _simulated(best, runs)
    for _ in range(ROUNDS):
        cluster = _scaled(cluster, found)
        found = _simulated(cluster, runs)
        if _loss(found) < _loss(least):
            best, least = cluster, found
    return best


def _simulated(cluster: Cluster, runs: Sequence[RecordedRun]) -> list[tuple[RunFit, Simulated]]:
    found = [simulate_run(cluster, run) for run in runs]
    return [(_beside(run, simulated), simulated) for run, simulated in zip(runs, found, strict=True)]


def _beside(run: RecordedRun, found: Simulated) -> RunFit:
    return RunFit(
        name=run.name,
        steps_per_s=run.steps_per_s,
        simulated_steps_per_s=found.steps_per_s,
        staleness_mean=run.staleness_mean,
        simulated_staleness_mean=found.staleness_mean,
    )


def _loss(found: Sequence[tuple[RunFit, Simulated]], *, scaled: bool = False) -> float:
    """How far the simulations are from the runs; `scaled`: but for one factor that all of them share."""
    logs = [math.log(fit.simulated_steps_per_s / fit.steps_per_s) for fit, _ in found]
    mean = sum(logs) / len(logs) if scaled else 0.0
    ages = [STALENESS_WEIGHT * (fit.simulated_staleness_mean - fit.staleness_mean) for fit, _ in found]
    return sum((each - mean) ** 2 for each in logs) + sum(age**2 for age in ages)


def _surprise(cluster: Cluster) -> float:
    """Runs that do not tell leave the number of cores where engines mostly have it."""
    return SURPRISE * math.log(cluster.pools[POOL].cores / LIKELY_CORES) ** 2


def _with_cores(cluster: Cluster, cores: float) -> Cluster:
    """The same work of the actors, with an engine that takes so many cores at a time, and helpers in proportion."""
    actor = cluster.pools[POOL]
    factor = cores / actor.cores
    faster = replace(
        actor,
        cores=cores,
        helper_cores=actor.helper_cores * factor,
        step_base_s=actor.step_base_s / factor,
        step_per_rollout_s=actor.step_per_rollout_s / factor,
    )
    return replace(cluster, pools={POOL: faster})


def _scaled(cluster: Cluster, found: Sequence[tuple[RunFit, Simulated]]) -> Cluster:
    """Scale each side by half of the errors of the runs, as far as it is the one that works in them."""
    side, weight = {"actors": 0.0, "learner": 0.0}, {"actors": 1e-9, "learner": 1e-9}
    for fit, simulated in found:
        error = math.log(fit.simulated_steps_per_s / fit.steps_per_s)
        for name, share in (("learner", simulated.learner_busy), ("actors", 1 - simulated.learner_busy)):
            side[name] += share * error
            weight[name] += share
    slower = {name: math.exp(side[name] / weight[name] / 2) for name in side}
    actor, learner = cluster.pools[POOL], cluster.learner
    actor = replace(
        actor,
        step_base_s=actor.step_base_s * slower["actors"],
        step_per_rollout_s=actor.step_per_rollout_s * slower["actors"],
    )
    learner = replace(learner, base_s=learner.base_s * slower["learner"], per_token_s=learner.per_token_s * slower["learner"])
    return replace(cluster, pools={POOL: actor}, learner=learner)
