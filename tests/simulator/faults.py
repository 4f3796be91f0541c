"""Faults as data: each strikes one process before one event. Drawn from a seed, printed when a run fails."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of faults. The last four do not happen to a TCP connection: they are harsher than ZeroMQ's network."""

    # SIGKILL; `how`: the point at which the buffer dies, or the checkpoint that the learner starts from again
    kill = "kill"
    leave = "leave"  # SIGTERM to an actor
    pause = "pause"  # SIGSTOP, and SIGCONT `seconds` later
    sever = "sever"  # the connection breaks; frames under way are lost, or leave over the next one
    cut = "cut"  # nothing passes for `seconds`; `how`: then all of it arrives, or the connection breaks
    full = "full"  # of the disk, for `seconds`
    broken = "broken"  # of the disk: one commit fails, `how`: nothing of it lasts, or all of it
    duplicate = "duplicate"  # a frame arrives twice
    reorder = "reorder"  # a frame overtakes those before it
    lose = "lose"  # a frame never arrives
    corrupt = "corrupt"  # a frame arrives with a flipped bit


HARSH = frozenset({Kind.duplicate, Kind.reorder, Kind.lose, Kind.corrupt})
# The point at which the buffer dies: between two turns; after it heard frames; after it decided; in a commit that is lost, or
# that lasts; when it has sent half of its frames.
BUFFER_DEATHS = ("idle", "heard", "decided", "torn", "written", "speaking")
RESTARTS = ("newest", "newest", "newest", "older", "none")  # checkpoint that a learner starts from


@dataclass(frozen=True, slots=True)
class Fault:
    """`event`: number of the world's event that it precedes."""

    event: int
    kind: Kind
    victim: str  # "buffer", "learner", "actor-2": the process of that name at the time
    seconds: float = 0.0
    how: str = ""


def draw_faults(
    rng: random.Random,
    weights: Mapping[tuple[Kind, str], float],
    *,
    num: int,
    gap: float,
    actors: int,
    restarts: Collection[str],
    relays: int = 0,
) -> list[Fault]:
    """`num` faults, `gap` events apart in the mean. `weights`: of (kind, "buffer" | "learner" | "actor" | "relay")."""
    event, faults = 0, []
    if not weights:
        return []
    for kind, role in rng.choices(list(weights), list(weights.values()), k=num):
        event += 1 + int(rng.expovariate(1 / gap))
        many = {"actor": actors, "relay": relays}.get(role)
        victim = role if many is None else f"{role}-{rng.randrange(many)}"
        seconds = round(rng.choice((0.5, 3.0, 12.0, 30.0)) * rng.uniform(0.5, 1.5), 2)
        faults.append(Fault(event, kind, victim, seconds, _how(rng, kind, role, restarts)))
    return faults


def _how(rng: random.Random, kind: Kind, role: str, restarts: Collection[str]) -> str:
    if kind is Kind.kill and role == "buffer":
        return rng.choice(BUFFER_DEATHS)
    if kind is Kind.kill and role == "learner":
        return rng.choice(tuple(restarts))
    if kind is Kind.cut:
        return rng.choice(("heals", "breaks"))
    if kind is Kind.broken:
        return rng.choice(("lost", "kept"))
    return ""
