"""One setting at several values: `prolong plan CLUSTER.yaml --sweep eta=0..16`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...common.config.sections import Config
from ...common.errors import UserError
from .closed_form import Roofs, roofs, step_work
from .simulation.cluster import Cluster
from .simulation.result import Simulated
from .simulation.simulate import simulate

# short names of what is swept most
SHORT = {"eta": "buffer.eta", "n": "sampling.n", "batch": "buffer.batch_groups"}
# numbers of a pool that can be swept
POOL_NUMBERS = ("count", "capacity", "max_running", "kv_tokens")
MAX_POINTS = 64
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, slots=True)
class Planned:
    """One setting of a cluster: the closed form and the simulation."""

    cluster: Cluster
    cfg: Config
    roofs: Roofs
    found: Simulated


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One value of the setting that is swept."""

    value: float
    planned: Planned


def plan_one(cluster: Cluster, cfg: Config, *, steps: int, seed: int) -> Planned:
    """Simulate a run, beside its closed form."""
    work = step_work(cluster, cfg, steps, seed)
    return Planned(cluster, cfg, roofs(cluster, cfg, work), simulate(cluster, cfg, steps=steps, seed=seed))


def parse_sweep(text: str) -> tuple[str, list[int]]:
    """What `KEY=A..B` or `KEY=A,B,C` sweeps: a setting, actors, or a number of a pool such as pools.h100.capacity.

    Raises: UserError.
    """
    key, equals, values = text.partition("=")
    key = SHORT.get(key, key)
    found = _RANGE.fullmatch(values)
    if found is not None:
        numbers = list(range(int(found[1]), int(found[2]) + 1))
    elif equals and re.fullmatch(r"\d+(,\d+)*", values):
        numbers = [int(number) for number in values.split(",")]
    else:
        raise UserError(f"--sweep {text}: expected KEY=FIRST..LAST or KEY=A,B,C with whole numbers, such as eta=0..16")
    if not 0 < len(numbers) <= MAX_POINTS:
        raise UserError(f"--sweep {text}: {len(numbers)} values; expected 1 to {MAX_POINTS}")
    return key, numbers


def run_sweep(
    cluster: Cluster, cfgs: Sequence[Config], key: str, values: Sequence[int], *, steps: int, seed: int
) -> Iterator[SweepPoint]:
    """Plan each value in turn. `cfgs`: the configuration for each of them."""
    for cfg, value in zip(cfgs, values, strict=True):
        changed = _with_pool(cluster, key, value) if is_of_pool(key) else cluster
        yield SweepPoint(value, plan_one(changed, cfg, steps=steps, seed=seed))


def is_of_pool(key: str) -> bool:
    """Whether a sweep changes the cluster, and not a setting of the run."""
    return key == "actors" or key.startswith("pools.")


def _with_pool(cluster: Cluster, key: str, value: int) -> Cluster:
    """The cluster with another number in one pool; `actors`: the count of the first. Raises: UserError."""
    first = next(iter(cluster.pools))
    _, pool, number = [*(f"pools.{first}.count" if key == "actors" else key).split("."), "", ""][:3]
    if pool not in cluster.pools or number not in POOL_NUMBERS:
        known = ", ".join(f"pools.{name}.{number}" for name in cluster.pools for number in POOL_NUMBERS)
        raise UserError(f"--sweep {key}: expected actors, a setting of docs/config.md, or one of {known}")
    return replace(cluster, pools=cluster.pools | {pool: replace(cluster.pools[pool], **{number: value})})
