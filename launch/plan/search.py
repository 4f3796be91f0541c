"""The best split of the devices and the best settings for a cluster: the closed form ranks them all, the simulation the first.

Splits move the learner's devices to the pool that has the same ones, and back. The time of the learner's tokens is divided by
its devices; what a step takes whatever its batch stays. Whether a split fits into memory is `prolong plan memory`'s question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...common.config.sections import Config
from .closed_form import roofs, step_work
from .simulation.cluster import Cluster
from .sweep import Planned, plan_one

ETAS = (0, 1, 2, 3, 4, 6, 8)
# of two settings this close the one with the smaller eta is better: staler groups teach less
ENOUGH = 0.98
SPLITS = 16  # numbers of the learner's devices that are tried, at most
SIMULATED = 6  # of the candidates
MANY_ACTORS = 300  # so many make a simulation slow
SIMULATED_OF_MANY = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster and settings, and the steps per second that nothing can exceed."""

    cluster: Cluster
    cfg: Config
    bound: float


def find_best(given: Planned, *, steps: int, seed: int) -> Planned:
    """The best of the simulated candidates, or what was given."""
    ranked = _rank(list(_candidates(given.cluster, given.cfg, steps, seed)))
    simulated = SIMULATED if given.cluster.num_actors < MANY_ACTORS else SIMULATED_OF_MANY
    planned = [given] + [plan_one(each.cluster, each.cfg, steps=steps, seed=seed) for each in ranked[:simulated]]
    best = max(each.found.steps_per_s for each in planned)
    enough = [each for each in planned if each.found.steps_per_s >= ENOUGH * best]
    return min(enough, key=lambda each: (each.cfg.buffer.eta, -each.found.steps_per_s))


def _candidates(cluster: Cluster, cfg: Config, steps: int, seed: int) -> Iterator[Candidate]:
    work = step_work(cluster, cfg, steps, seed)
    for split in _splits(cluster):
        for capped in _capacities(split, cfg.sampling.n):
            for eta in ETAS:
                changed = replace(cfg, buffer=replace(cfg.buffer, eta=eta))
                yield Candidate(capped, changed, roofs(capped, changed, work).bound)


def _rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The highest bounds first; of one cluster only the smallest eta that is enough, and the next one."""
    by_cluster: dict[int, list[Candidate]] = {}
    for each in candidates:
        by_cluster.setdefault(id(each.cluster), []).append(each)
    chosen: list[Candidate] = []
    for each in by_cluster.values():
        best = max(one.bound for one in each)
        first = next(place for place, one in enumerate(each) if one.bound >= ENOUGH * best)
        chosen += each[first : first + 2]
    return sorted(chosen, key=lambda one: (-round(one.bound / max(c.bound for c in chosen), 2), one.cfg.buffer.eta))


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


def _capacities(cluster: Cluster, n: int) -> Iterator[Cluster]:
    """The cluster with as many rollouts in flight as are given, and with fewer."""
    for factor in (1, 2, 4):
        pools = {name: replace(pool, capacity=max(pool.capacity // factor, n)) for name, pool in cluster.pools.items()}
        yield replace(cluster, pools=pools)
