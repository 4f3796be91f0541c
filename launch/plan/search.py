"""The best split of the devices and the best eta for a cluster: the closed form ranks the splits, the simulation decides.

Splits move the learner's devices to the pool that has the same ones, and back. The time of the learner's tokens is divided by
its devices; what a step takes whatever its batch stays. Whether a split fits into memory is `prolong plan memory`'s question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...common.config.sections import Config
from ...common.config.trees import largest_eta
from .closed_form import StepWork, roofs, step_work
from .simulation.cluster import Cluster
from .sweep import Planned, plan_one

ETAS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
# of two settings this close the one with the smaller eta is better: staler groups teach less
ENOUGH = 0.98
SPLITS = 16  # numbers of the learner's devices that are tried, at most
SIMULATED = 8  # settings
MANY_ACTORS = 300  # so many make a simulation slow
SIMULATED_OF_MANY = 3


def find_best(given: Planned, *, steps: int, seed: int) -> Planned:
    """The best of the settings that are simulated, or what was given."""
    work = step_work(given.cluster, given.cfg, steps, seed)
    left = SIMULATED if given.cluster.num_actors < MANY_ACTORS else SIMULATED_OF_MANY
    planned = [given]
    for cluster in _ranked(given.cluster, given.cfg, work):
        fastest = 0.0
        for eta in _etas(cluster, given.cfg, work):
            if left == 0:
                return _choose(planned)
            left -= 1
            cfg = _with_eta(given.cfg, eta)
            found = given if (cluster, cfg) == (given.cluster, given.cfg) else plan_one(cluster, cfg, steps=steps, seed=seed)
            planned.append(found)
            if ENOUGH * found.found.steps_per_s < fastest:
                break
            fastest = max(fastest, found.found.steps_per_s)
    return _choose(planned)


def _choose(planned: Sequence[Planned]) -> Planned:
    """The smallest eta among the fastest, and the fastest of those."""
    best = max(each.found.steps_per_s for each in planned)
    enough = [each for each in planned if each.found.steps_per_s >= ENOUGH * best]
    return min(enough, key=lambda each: (largest_eta(each.cfg.buffer), -each.found.steps_per_s))


def _with_eta(cfg: Config, eta: int) -> Config:
    """With an eta that stays: one that adapts would find it by itself."""
    return replace(cfg, buffer=replace(cfg.buffer, eta=eta, adaptive={}))


def _ranked(cluster: Cluster, cfg: Config, work: StepWork) -> list[Cluster]:
    """All splits, the one with the highest bound at the largest eta first."""
    slack = _with_eta(cfg, ETAS[-1])
    return sorted(_splits(cluster), key=lambda split: -roofs(split, slack, work).bound)


def _etas(cluster: Cluster, cfg: Config, work: StepWork) -> list[int]:
    """Those worth a simulation, ascending: from the first whose bound is nearly that of the largest."""
    bounds = [roofs(cluster, _with_eta(cfg, eta), work).bound for eta in ETAS]
    return [eta for eta, bound in zip(ETAS, bounds, strict=True) if bound >= ENOUGH * bounds[-1]]


def _splits(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with other numbers of devices for the learner; as it is where they are not known."""
    learner = cluster.learner
    if not learner.pool or not learner.devices:
        yield cluster
        return
    pool = cluster.pools[learner.pool]
    total = learner.devices + pool.count * pool.devices
    most = total - pool.devices
    tried = sorted({learner.devices, *(round(1 + (most - 1) * place / (SPLITS - 1)) for place in range(SPLITS))})
    for devices in tried:
        count = (total - devices) // pool.devices
        if 1 <= devices <= most and count >= 1:
            yield replace(
                cluster,
                pools=cluster.pools | {learner.pool: replace(pool, count=count)},
                learner=replace(learner, devices=devices, per_token_s=learner.per_token_s * learner.devices / devices),
            )
