"""What no record shows of a calibrated cluster, found by simulating the recorded runs until they take as long as they took.

On a shared host that is how many cores an actor takes when nobody else wants any, and how much processes that work at once
slow one another; everywhere, which side is slower than its own seconds say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .calibrate import POOL, of_settings
from .recorded import RecordedRun
from .simulation.cluster import Cluster
from .simulation.result import Simulated
from .simulation.simulate import simulate

ROUNDS, STEP, FURTHEST = 5, 0.1, 0.4  # of the search: a step is that of its derivatives, in logarithms
LIKELY_CORES, SURPRISE = 1.1, 0.1  # what is assumed where the runs do not tell, and how firmly
STALENESS_WEIGHT = 0.2  # of a version, beside a logarithm of steps per second


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
    found = simulate_run(cluster, run)
    return RunFit(
        name=run.name,
        steps_per_s=run.steps_per_s,
        simulated_steps_per_s=found.steps_per_s,
        staleness_mean=run.staleness_mean,
        simulated_staleness_mean=found.staleness_mean,
    )


def refine(cluster: Cluster, runs: Sequence[RecordedRun]) -> Cluster:
    """The cluster with the numbers that no record shows. Simulates every run a few dozen times.

    Gauss and Newton's method with derivatives by finite differences: a side that is too slow and a host that is too crowded
    look alike in each run alone, so that one number after the other would not do.
    """
    unknown = 4 if cluster.host.cores else 2
    best = np.zeros(unknown)
    errors = _errors(best, cluster, runs)
    for _ in range(ROUNDS):
        slopes = np.stack([_errors(best + STEP * axis, cluster, runs) - errors for axis in np.eye(unknown)], axis=1) / STEP
        move = np.clip(np.linalg.lstsq(slopes, -errors, rcond=None)[0], -FURTHEST, FURTHEST)
        for part in (1.0, 0.5, 0.25):
            tried = best + part * move
            found = _errors(tried, cluster, runs)
            if found @ found < errors @ errors:
                best, errors = tried, found
                break
        else:
            break
    return _changed(cluster, best)


def _changed(cluster: Cluster, numbers: np.ndarray) -> Cluster:
    """The cluster with the numbers that no record shows, in logarithms: 0 changes nothing, but for the cores of an engine.

    numbers: how much longer than recorded actors and learner work; on a shared host also the cores that the process of an
    engine takes, relative to LIKELY_CORES, and 1 + HostDevice.contention.
    """
    slower, longer, *shared = (math.exp(number) for number in numbers)
    actor, learner, host = cluster.pools[POOL], cluster.learner, cluster.host
    if shared:
        factor = LIKELY_CORES * shared[0] / actor.cores
        actor = replace(actor, cores=actor.cores * factor, helper_cores=actor.helper_cores * factor)
        slower /= factor  # the same CPU seconds
        host = replace(host, contention=max(shared[1] - 1, 0.0))
    actor = replace(actor, step_base_s=actor.step_base_s * slower, step_per_rollout_s=actor.step_per_rollout_s * slower)
    learner = replace(learner, base_s=learner.base_s * longer, per_token_s=learner.per_token_s * longer)
    return replace(cluster, pools={POOL: actor}, learner=learner, host=host)


def _errors(numbers: np.ndarray, cluster: Cluster, runs: Sequence[RecordedRun]) -> np.ndarray:
    """How far the simulations are from the runs, and how unlikely the numbers are.

    A side that no run waits for hardly changes a simulation: nothing else keeps it from making up for an error of the others.
    """
    errors = list(SURPRISE * numbers)
    for run in runs:
        fit = fit_of(_changed(cluster, numbers), run)
        errors.append(math.log(fit.simulated_steps_per_s / fit.steps_per_s))
        errors.append(STALENESS_WEIGHT * (fit.simulated_staleness_mean - fit.staleness_mean))
    return np.array(errors)
