"""The speed of the actors' engines between two batches, of each and of all, made of what their heartbeats count."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

Numbers = Mapping[str, float]

_SECONDS = ("busy_s", "idle_s", "weights_s")  # all the time of an actor
_KV_USE = "actor_kv_use"


def speed_metrics(grown: Mapping[str, Numbers]) -> dict[str, float]:
    """perf/actor_NUMBER of all actors, and perf/actor_NUMBER/NAME of each. grown: what each counted since the last batch.

    tokens_per_s: sampled, by all time that passed. running, waiting: rollouts in a mean step. kv_use: the share of the cache of
    keys and values that is taken in a mean step. preemptions: rollouts that lost their place in it. All but kv_use, a mean over
    actors, add up over actors. An actor whose engine did nothing since the last batch is left out.
    """
    by_actor = {name: speed for name, numbers in grown.items() if (speed := _speed(numbers))}
    metrics = {f"perf/{key}/{name}": number for name, speed in by_actor.items() for key, number in speed.items()}
    for key in next(iter(by_actor.values()), {}):
        numbers = [speed[key] for speed in by_actor.values()]
        metrics[f"perf/{key}"] = fmean(numbers) if key == _KV_USE else sum(numbers)
    return metrics


def _speed(grown: Numbers) -> dict[str, float]:
    steps, seconds = grown.get("engine_steps", 0.0), sum(grown.get(name, 0.0) for name in _SECONDS)
    if steps <= 0 or seconds <= 0:
        return {}
    return {
        "actor_tokens_per_s": grown["engine_tokens"] / seconds,
        "actor_running": grown["engine_running"] / steps,
        "actor_waiting": grown["engine_waiting"] / steps,
        _KV_USE: grown["engine_kv_use"] / steps,
        "actor_preemptions": grown["engine_preemptions"],
    }
