"""How long a ticket may take, so that the places which admission gives are used best.

At most N = (eta + 1) B tickets are untrained, so by Little's law X groups a second can be trained only if a ticket takes N / X
seconds at most. An actor that may take D seconds for a group works on as many rollouts as come back within D: more of them
slow it down. So there is one D at which the work that fits just uses the places:

    N / D = X(D),    X(D) = sum over actors of  r / (n T(r)),    r = the most rollouts in flight with T'(r) <= D

T is what a group takes on average, and T' what a long one does: the learner waits for the last of a batch. Below that D places
stay empty; above it slow actors hold places that fast ones could use several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 40


@dataclass(frozen=True, slots=True)
class TicketWindow:
    """How long a ticket may take, and what the actors make then."""

    ticket_s: float  # from issue to group
    groups_per_s: float  # of all actors whose work comes back in that time


@dataclass(frozen=True, slots=True)
class ActorSpeeds:
    """What a group takes at each actor: a number of seconds, and more for each rollout in flight."""

    fixed_s: NDArray[np.float64]
    per_rollout_s: NDArray[np.float64]
    # the same of a group as long as there is about one in a batch: the learner waits for those
    high_fixed_s: NDArray[np.float64]
    high_per_rollout_s: NDArray[np.float64]
    room: NDArray[np.float64]  # rollouts in flight, at most

    def load_within(self, ticket_s: float, num_rollouts: int) -> NDArray[np.float64]:
        """The most rollouts of each actor whose groups come back within `ticket_s`; 0 where not one group does."""
        # a hair for rounding at the shortest window
        fits = self.high_fixed_s + self.high_per_rollout_s * num_rollouts <= ticket_s * (1 + 1e-6)
        full = np.maximum(self.room, num_rollouts)
        slope = self.high_per_rollout_s
        most = np.where(slope > 0, (ticket_s - self.high_fixed_s) / np.maximum(slope, 1e-12), full)
        return np.where(fits, np.clip(most, num_rollouts, full), 0.0)

    def rate(self, ticket_s: float, num_rollouts: int) -> float:
        """Groups a second of all actors, each with that load."""
        load = self.load_within(ticket_s, num_rollouts)
        return float((load / num_rollouts / (self.fixed_s + self.per_rollout_s * load + 1e-300)).sum())


def best_window(actors: ActorSpeeds, num_rollouts: int, places: int) -> TicketWindow:
    """The window of these actors, of which there must be one. `places`: tickets that may be untrained."""
    full = np.maximum(actors.room, num_rollouts)
    low = float((actors.high_fixed_s + actors.high_per_rollout_s * num_rollouts).min())
    high = float((actors.high_fixed_s + actors.high_per_rollout_s * full).max())
    if low * actors.rate(low, num_rollouts) >= places:
        high = low
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if middle * actors.rate(middle, num_rollouts) >= places else (middle, high)
    rate = actors.rate(high, num_rollouts)
    # with places to spare a ticket may take as long as they last
    return TicketWindow(max(high, places / rate), rate)
