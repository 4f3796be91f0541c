"""The speed of the actors' engines between two batches, of each and of all, made of what their heartbeats count.

A record of a step names a few dozen actors at most: of more, it tells the slowest, the middle and the fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from types import MappingProxyType

Numbers = Mapping[str, float]

_SECONDS = ("busy_s", "idle_s", "weights_s")  # all the time of an actor
_KV_USE = "actor_kv_use"
MAX_NAMED = 32
_NO_POOLS: Mapping[str, str] = MappingProxyType({})


def speed_metrics(grown: Mapping[str, Numbers], pools: Mapping[str, str] = _NO_POOLS) -> dict[str, float]:
    """perf/actor_NUMBER of all actors, perf/actor_NUMBER/NAME of each, and perf/pool_NUMBER/POOL of those of a pool.

    With more than MAX_NAMED actors perf/actor_NUMBER_min, _median and _max take the place of each.

    grown: what each counted since the last batch. pools: actor -> its pool, for those that have one.

    tokens_per_s: sampled, by all time that passed. running, waiting: rollouts in a mean step. kv_use: the share of the cache of
    keys and values that is taken in a mean step. preemptions: rollouts that lost their place in it. All but kv_use, a mean over
    actors, add up over actors. An actor whose engine did nothing since the last batch is left out.
    """
    by_actor = {name: speed for name, numbers in grown.items() if (speed := _speed(numbers))}
    metrics = _of_each(by_actor) if len(by_actor) <= MAX_NAMED else _spread(list(by_actor.values()))
    metrics |= {f"perf/{key}": number for key, number in _together(list(by_actor.values())).items()}
    for pool in sorted({pools[name] for name in by_actor.keys() & pools.keys()}):
        together = _together([speed for name, speed in by_actor.items() if pools.get(name) == pool])
        metrics |= {f"perf/{key.replace('actor', 'pool', 1)}/{pool}": number for key, number in together.items()}
    return metrics


def _of_each(by_actor: Mapping[str, Numbers]) -> dict[str, float]:
    return {f"perf/{key}/{name}": number for name, speed in by_actor.items() for key, number in speed.items()}


def _spread(speeds: Sequence[Numbers]) -> dict[str, float]:
    """The least, the median and the greatest number of any actor."""
    spread: dict[str, float] = {}
    for key in speeds[0]:
        numbers = sorted(speed[key] for speed in speeds)
        spread |= {f"perf/{key}_min": numbers[0], f"perf/{key}_max": numbers[-1], f"perf/{key}_median": median(numbers)}
    return spread


def _together(speeds: Sequence[Numbers]) -> dict[str, float]:
    """The numbers of several actors as one. Whatever they report, this must not raise: fmean does for infinite or huge ones."""
    by_key = {key: [speed[key] for speed in speeds] for key in (speeds[0] if speeds else {})}
    return {key: sum(numbers) / (len(numbers) if key == _KV_USE else 1) for key, numbers in by_key.items()}


def _speed(grown: Numbers) -> dict[str, float]:
    steps, seconds = grown.get("engine_steps", 0.0), sum(grown.get(name, 0.0) for name in _SECONDS)
    if steps <= 0 or seconds <= 0:
        return {}
    return {
        "actor_tokens_per_s": grown.get("engine_tokens", 0.0) / seconds,
        "actor_running": grown.get("engine_running", 0.0) / steps,
        "actor_waiting": grown.get("engine_waiting", 0.0) / steps,
        _KV_USE: grown.get("engine_kv_use", 0.0) / steps,
        "actor_preemptions": grown.get("engine_preemptions", 0.0),
    }
