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
from .simulation.result import WARM_UP, Simulated
from .simulation.simulate import simulate

CORES_TRIED = (0.8, 0.9, 1.0, 1.1, 1.25, 1.4)  # of the process of an engine
ROUNDS = 3  # of scaling
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
        cluster = min((_with_cores(cluster, cores) for cores in CORES_TRIED), key=lambda each: _loss(each, runs))
    for _ in range(ROUNDS):
        cluster = _scaled(cluster, [(run, simulate_run(cluster, run)) for run in runs])
    return cluster


def _beside(run: RecordedRun, found: Simulated) -> RunFit:
    first = max(run.first_measured(WARM_UP), 1)
    return RunFit(
        name=run.name,
        steps_per_s=run.steps_per_s(first),
        simulated_steps_per_s=found.steps_per_s,
        staleness_mean=run.staleness_mean(first),
        simulated_staleness_mean=found.staleness_mean,
    )


def _loss(cluster: Cluster, runs: Sequence[RecordedRun]) -> float:
    """How far the simulations are from the runs, whatever the speed of all devices together."""
    fits = [fit_of(cluster, run) for run in runs]
    logs = [math.log(fit.simulated_steps_per_s / fit.steps_per_s) for fit in fits]
    mean = sum(logs) / len(logs)
    ages = [STALENESS_WEIGHT * (fit.simulated_staleness_mean - fit.staleness_mean) for fit in fits]
    return sum((each - mean) ** 2 for each in logs) + sum(age**2 for age in ages)


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


def _scaled(cluster: Cluster, found: Sequence[tuple[RecordedRun, Simulated]]) -> Cluster:
    """Scale each side by the errors of the runs, as far as it is the one that works in them."""
    side = {"actors": 0.0, "learner": 0.0}
    weight = {"actors": 1e-9, "learner": 1e-9}
    for run, simulated in found:
        fit = _beside(run, simulated)
        error = math.log(fit.simulated_steps_per_s / fit.steps_per_s)
        shares = {"learner": simulated.learner_busy, "actors": 1 - simulated.learner_busy}
        for name, share in shares.items():
            side[name] += share * error
            weight[name] += share
    actor, learner = cluster.pools[POOL], cluster.learner
    slower = {name: math.exp(side[name] / weight[name]) for name in side}
    return replace(
        cluster,
        pools={
            POOL: replace(
                actor,
                step_base_s=actor.step_base_s * slower["actors"],
                step_per_rollout_s=actor.step_per_rollout_s * slower["actors"],
            )
        },
        learner=replace(
            learner, base_s=learner.base_s * slower["learner"], per_token_s=learner.per_token_s * slower["learner"]
        ),
    )
