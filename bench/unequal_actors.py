"""prolong bench unequal-actors: a thousand simulated actors, half of them slower, by `buffer.dispatch`.

The shipped buffer core runs in virtual time on engines whose steps take longer the more rollouts they decode. Printed is the
share of the actors' roof: the tokens that they sampled, divided by those that they would sample if they were always full.
"""

from __future__ import annotations

import argparse
from time import process_time

from ..common.config.choices import DispatchRule
from ..common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from ..launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice
from ..launch.plan.simulation.simulate import simulate
from .measure import report

GROUPS = 8  # that the engine of an actor runs at once
ROLLOUTS = 4  # of a group
MORE = 1.25  # times the rollouts that the engine runs are in flight: some of a group end before its last
WORK: dict[str, list[LengthClass]] = {
    "one": [LengthClass(mean=500, spread=0.02)],
    "three": [LengthClass(name=f"a/t{mean}", mean=mean, spread=0.1) for mean in (250, 500, 1000)],
}


def cluster(actors: int, slower: float, work: str) -> Cluster:
    """Half of the actors take `slower` times as long for each step."""

    def pool(factor: float) -> PoolDevice:
        return PoolDevice(
            count=actors // 2,
            capacity=int(GROUPS * ROLLOUTS * MORE),
            max_running=GROUPS * ROLLOUTS,
            step_base_s=0.008 * factor,
            step_per_rollout_s=0.0006 * factor,
        )

    return Cluster(pools={"fast": pool(1.0), "slow": pool(slower)}, learner=LearnerDevice(base_s=0.1), lengths=WORK[work])


def settings(rule: DispatchRule, actors: int, eta: int, places: float) -> Config:
    """`places`: tickets that admission allows, divided by the groups that all engines run at once."""
    return Config(
        model=ModelConfig(path="none", max_context=2000),
        sampling=SamplingConfig(n=ROLLOUTS, max_tokens=1500),
        buffer=BufferConfig(
            batch_groups=int(actors * GROUPS * places / (eta + 1)),
            eta=eta,
            dispatch=rule,
            heartbeat_s=1.0,
            silence_s=8.0,
            lease_s=36_000.0,
            max_message_mb=1024,
        ),
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench unequal-actors", description=__doc__)
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--slower", type=float, default=4.0, help="times as long a step of the slow half takes")
    parser.add_argument(
        "--work", choices=sorted(WORK), default="one", help="one kind of prompts, or three of 250 to 1,000 tokens"
    )
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--places", type=float, default=2.0, help="tickets allowed, divided by groups that engines run")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    arms: dict[str, dict[str, object]] = {}
    for rule in DispatchRule:
        began_s = process_time()
        cfg = settings(rule, asked.actors, asked.eta, asked.places)
        found = simulate(cluster(asked.actors, asked.slower, asked.work), cfg, steps=asked.steps, seed=0)
        arms[rule.name] = {
            "share_of_roof": round(found.share_of_roof, 3),
            "share_by_pool": {name: round(pool.share_of_roof, 3) for name, pool in found.pools.items()},
            "steps_per_s": round(found.steps_per_s, 5),
            "staleness_max": max(found.staleness),
            **{name: round(number, 3) for name, number in found.metrics.items() if name.startswith("forecast/")},
            "cpu_s": round(process_time() - began_s, 1),
        }
    report({"bench": "unequal-actors", **vars(asked), "dispatch": arms}, as_json=asked.json)
    return 0
