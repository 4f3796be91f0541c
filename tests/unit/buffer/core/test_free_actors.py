"""Ranked actors: the first that has room, and work only for those that changed."""

from __future__ import annotations

import random

from prolong.buffer.core.free_actors import FreeActors, Place


def test_the_best_is_what_a_look_at_all_actors_finds_whatever_changed() -> None:
    rng = random.Random(0)
    places: dict[str, Place | None] = {}
    joined: dict[str, int] = {}
    free = FreeActors()

    def naive(versions: list[int], num_rollouts: int) -> str | None:
        fits = [
            (place.rank, joined[name], name)
            for name, place in places.items()
            if place is not None and place.version in versions and place.room >= num_rollouts
        ]
        return min(fits)[2] if fits else None

    for _ in range(3_000):
        name = f"actor-{rng.randrange(12)}"
        places[name] = rng.choice((None, Place(rng.randrange(3), rng.choice((0.0, 0.5, 1.0)), rng.randrange(1, 9))))
        free.touch(name)
        free.refresh(lambda name: places[name])
        if places[name] is not None:
            joined.setdefault(name, len(joined))
        versions = rng.sample(range(3), rng.randrange(4))
        num_rollouts = rng.choice((1, 4, 4, 4, 8))
        assert free.best(versions, num_rollouts) == naive(versions, num_rollouts)
        held = {place.version for place in places.values() if place is not None}
        assert free.versions() == sorted(held, reverse=True)


def test_only_touched_actors_are_ranked() -> None:
    free, asked = FreeActors(), []

    def place_of(name: str) -> Place:
        asked.append(name)
        return Place(0, 0.0, 8)

    names = [f"actor-{index}" for index in range(100)]
    free.touch(*names)
    free.refresh(place_of)
    asked.clear()
    free.touch("actor-7")
    free.refresh(place_of)
    free.refresh(place_of)
    assert asked == ["actor-7"]
    assert free.best([0], 1) == "actor-0"


def test_an_actor_that_left_and_comes_back_joins_last() -> None:
    free = FreeActors()
    places: dict[str, Place | None] = dict.fromkeys(("a", "b"), Place(0, 0.0, 8))
    free.touch("a", "b")
    free.refresh(places.get)
    places["a"] = None
    free.forget("a")
    free.refresh(places.get)
    places["a"] = Place(0, 0.0, 8)
    free.touch("a")
    free.refresh(places.get)
    assert free.best([0], 1) == "b"


def test_an_actor_that_is_back_before_anybody_looked_takes_tickets() -> None:
    free, place = FreeActors(), Place(0, 0.0, 8)
    free.touch("a")
    free.refresh(lambda name: place)
    free.forget("a")
    free.touch("a")
    free.refresh(lambda name: place)
    assert free.best([0], 1) == "a"
    free.forget("a")
    assert (free.best([0], 1), free.versions()) == (None, [])
