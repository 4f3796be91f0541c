"""How long a ticket may take, against a search of every choice of actors."""

from __future__ import annotations

import numpy as np
import pytest
from prolong.buffer.forecast.window import ActorSpeeds, best_window


def speeds(fixed: list[float], per_rollout: list[float], room: list[float]) -> ActorSpeeds:
    fixed_s, per_rollout_s = np.array(fixed), np.array(per_rollout)
    return ActorSpeeds(
        fixed_s=fixed_s,
        per_rollout_s=per_rollout_s,
        high_fixed_s=fixed_s,
        high_per_rollout_s=per_rollout_s,
        room=np.array(room),
    )


def best_rate(actors: ActorSpeeds, num_rollouts: int, places: int) -> float:
    """The most groups a second, over a fine grid of windows: the places, or the actors, are the limit."""
    grid = np.linspace(0.5, 120.0, 1_500)
    return max(min(places / window_s, actors.rate(float(window_s), num_rollouts)) for window_s in grid)


@pytest.mark.parametrize("places", [2, 6, 12, 20, 40, 100])
@pytest.mark.parametrize(
    ("fixed", "per_rollout"),
    [([10.0, 10.0, 40.0, 40.0], [0.0] * 4), ([5.0, 6.0, 20.0, 21.0], [0.4, 0.4, 1.5, 1.5]), ([10.0] * 4, [0.2] * 4)],
)
def test_no_other_window_makes_more_groups(fixed: list[float], per_rollout: list[float], places: int) -> None:
    actors = speeds(fixed, per_rollout, [16.0] * 4)
    found = best_window(actors, 4, places)
    assert min(places / found.ticket_s, found.groups_per_s) >= best_rate(actors, 4, places) * 0.97


def test_slow_actors_get_nothing_where_fast_ones_use_every_place() -> None:
    actors = speeds([10.0, 40.0], [0.0, 0.0], [16.0, 16.0])
    scarce = best_window(actors, 4, places=4)
    assert actors.load_within(scarce.ticket_s, 4).tolist() == [16.0, 0.0]
    ample = best_window(actors, 4, places=40)
    assert actors.load_within(ample.ticket_s, 4).tolist() == [16.0, 16.0]


def test_a_slow_actor_gets_fewer_rollouts_where_that_makes_it_as_fast() -> None:
    actors = speeds([4.0, 4.0], [1.0, 4.0], [16.0, 16.0])
    found = best_window(actors, 2, places=10)
    fast, slow = actors.load_within(found.ticket_s, 2)
    assert slow == pytest.approx(fast / 4, rel=0.05)
