"""The speed of the planner's simulation: thousands of actors, half of them four times slower, on the shipped buffer core.

An actor has room for four groups of eight rollouts of 500 tokens; a batch has as many groups as there are actors.
"""

from __future__ import annotations

import argparse
from time import perf_counter, process_time

from ..common.config.choices import DispatchRule
from ..common.config.sections import BufferConfig, Config, ModelConfig, SamplingConfig
from ..launch.plan.simulation.cluster import Cluster, LearnerDevice, LengthClass, PoolDevice, WeightsDevice
from ..launch.plan.simulation.simulate import simulate
from .measure import report

GROUPS, N, TOKENS = 4, 8, 500
SLOWER = 4
STEP_S, PER_ROLLOUT_S = 0.02, 1e-4


def device(count: int, times: int) -> PoolDevice:
    return PoolDevice(count=count, capacity=GROUPS * N, step_base_s=STEP_S * times, step_per_rollout_s=PER_ROLLOUT_S * times)


def thousands(actors: int) -> Cluster:
    """The cluster. Its learner would be busy for a third of the time if the actors were always full."""
    fast, slow = device(actors - actors // 2, 1), device(actors // 2, SLOWER)
    roof = fast.count * fast.roof_tokens_per_s() + slow.count * slow.roof_tokens_per_s()
    period_s = actors * N * TOKENS / roof
    return Cluster(
        pools={"fast": fast, "slow": slow},
        learner=LearnerDevice(base_s=period_s / 3),
        lengths=[LengthClass(mean=TOKENS, spread=0.3, prompt_spread=0.3)],
        weights=WeightsDevice(publish_s=0.1 * period_s, pause_s=0.01 * period_s),
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="prolong bench simulation", description=__doc__)
    parser.add_argument("--actors", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--eta", type=int, default=8)
    parser.add_argument("--dispatch", choices=[rule.name for rule in DispatchRule], default=DispatchRule.forecast.name)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    args = parser.parse_args(argv)
    cfg = Config(
        model=ModelConfig(path="none", max_context=4096),
        sampling=SamplingConfig(n=N, max_tokens=2048),
        buffer=BufferConfig(
            batch_groups=args.actors,
            eta=args.eta,
            lease_s=1e6,
            dynamic_sampling=False,
            max_message_mb=4096,
            dispatch=DispatchRule[args.dispatch],
        ),
    )
    wall_s, cpu_s = perf_counter(), process_time()
    found = simulate(thousands(args.actors), cfg, steps=args.steps)
    wall_s, cpu_s = perf_counter() - wall_s, process_time() - cpu_s
    rollouts = args.steps * args.actors * N
    figures = {
        "bench": "simulation",
        "actors": args.actors,
        "steps": args.steps,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "cpu_us_per_rollout": 1e6 * cpu_s / rollouts,
        "events": found.num_events,
        "virtual_s": found.seconds,
        "share_of_roof": found.share_of_roof,
        "staleness_mean": found.staleness_mean,
    }
    report(figures, as_json=args.json)
    return 0
