"""Which actor gets the next ticket, and for which prompt: by forecast, or evenly (`buffer.dispatch`).

even      the actor with the largest share of its room free gets the next prompt: actors of any size fill evenly
forecast  the actor that would be back first gets the longest of the next prompts that it brings back in time. An actor that
          would be late with all of them gets none, if another one would be much sooner: it would hold places of the
          admission that others use several times, and the learner would wait for it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...common.config.sections import DispatchRule
from ...common.messages import Role
from ..forecast.forecast import KnownActor
from .free_actors import ANY, FreeActors, Place
from .peers import Peers
from .run_state import RunState

# prompts that a ticket can be given one of, while actors are unequal
NEXT_PROMPTS = 32
# expected times that differ by less than this factor count as the same
ALIKE = 1.001
# the plan is made again after this share of the time that a ticket may take, and when the head moves
PLAN_SHARE = 0.25
# seconds that stand for that time while it is not known
UNKNOWN_S = 4.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A decision: the next training ticket goes to `actor`, for prompt `choice` of those that the look-ahead offers."""

    actor: str
    version: int
    choice: int


class Placement:
    """Decides for each ticket. `touch` tells it who changed."""

    def __init__(self, run: RunState, peers: Peers, rule: DispatchRule) -> None:
        self._run, self._peers = run, peers
        self._foresees = rule is DispatchRule.forecast
        self._free = FreeActors()
        self._head = -1
        self._plan_at_s = 0.0

    def touch(self, actor: str) -> None:
        """An actor said something: its room, its weights or its speed may have changed."""
        self._free.touch(actor)

    def forget(self, actor: str) -> None:
        """An actor is gone."""
        self._free.forget(actor)
        self._run.forecast.forget(actor)

    def refresh(self) -> list[int]:
        """Rank the actors that changed; returns the versions that actors with room hold, the newest first."""
        self._free.touch(*self._run.leases.take_changed_actors())
        self._free.refresh(self.place)
        return self._free.versions()

    def place(self, actor: str) -> Place | None:
        """What an actor may take now; None for one without weights or room, and for one that leaves."""
        peer, version = self._peers.named(actor), self._run.version_of(actor)
        if peer is None or peer.role is not Role.actor or peer.leaving or version is None:
            return None
        in_flight = self._run.leases.rollouts(actor)
        room = ANY if in_flight == 0 else peer.room - in_flight
        return Place(version, self._rank(actor, in_flight, peer.room), room) if room > 0 else None

    def _rank(self, actor: str, in_flight: int, room: int) -> float:
        share = in_flight / max(room, 1)
        if not self._foresees:
            return share
        usual_s = self._run.forecast.usual_s(actor, in_flight + self._run.store.sampling.n)
        # of an actor that nothing is known of: as if it were usual, and filled evenly
        return share * self._run.forecast.mean_s if usual_s is None else usual_s

    def best(self, versions: Iterable[int], num_rollouts: int) -> str | None:
        """The actor that comes first of those with one of these versions and so much room."""
        versions = list(versions)
        while (actor := self._free.best(versions, num_rollouts)) is not None:
            held, found = self._free.place(actor), self.place(actor)
            if held is not None and found is not None and (held.version, held.room) == (found.version, found.room):
                return actor
            # it lost its weights without a word of its own
            self._free.touch(actor)
            self.refresh()
        return None

    def place_training(self, admitted: Sequence[int], now: float) -> Placed | None:
        """The actor and the prompt of the next training ticket. `admitted`: versions whose actors may have one."""
        num_rollouts = self._run.store.sampling.n
        if not self._foresees:
            actor = self.best(admitted, num_rollouts)
            return None if actor is None else self._placed(actor, 0)
        self._plan(now)
        firsts = [actor for version in admitted if (actor := self.best([version], num_rollouts)) is not None]
        firsts.sort(key=self._rank_of)
        for actor in firsts:
            choice = self._choose(actor, now)
            if choice is not None:
                return self._placed(actor, choice)
        return None

    def _rank_of(self, actor: str) -> float:
        place = self._free.place(actor)
        assert place is not None
        return place.rank

    def _placed(self, actor: str, choice: int) -> Placed:
        version = self._run.version_of(actor)
        assert version is not None
        return Placed(actor, version, choice)

    def _choose(self, actor: str, now: float) -> int | None:
        """The longest of the next prompts that the actor brings back in time; None when there is none.

        Among equal actors there is nobody to hold a ticket back for, and nothing to choose by. An actor that was given nothing
        for long gets the shortest: what is known of it may be wrong by now, and nothing else would show that.
        """
        run, forecast = self._run, self._run.forecast
        if not forecast.is_unequal:
            return 0
        version = run.version_of(actor)
        assert version is not None
        sampling, contract = run.store.sampling, run.store.contract
        slack_s = forecast.slack_s(version + contract.eta - contract.head)
        load = run.leases.rollouts(actor) + sampling.n
        in_time: dict[int, float] = {}
        late: dict[int, float] = {}
        for choice, prompt in enumerate(run.store.look_ahead.offer(NEXT_PROMPTS)):
            back = forecast.expect(actor, prompt, sampling, load)
            if back is None:
                return 0
            soon = forecast.is_soon(back, prompt, sampling, slack_s)
            (in_time if soon else late)[choice] = back.mean_s
        if in_time:
            # of those that are about as long, the first
            longest_s = max(in_time.values())
            return next(choice for choice, mean_s in in_time.items() if mean_s * ALIKE >= longest_s)
        shortest = min(late, key=lambda choice: late[choice])
        return shortest if forecast.is_out_of_sight(actor, late[shortest], now) else None

    def _plan(self, now: float) -> None:
        """Decide anew how long a ticket may take, if that is due."""
        run, contract = self._run, self._run.store.contract
        if contract.head != self._head:
            self._head = contract.head
        elif now < self._plan_at_s:
            return
        workers = [
            KnownActor(actor.name, actor.room) for actor in self._peers.workers() if run.version_of(actor.name) is not None
        ]
        run.forecast.plan(workers, run.store.sampling, batch=contract.batch, eta=contract.eta)
        self._plan_at_s = now + PLAN_SHARE * (run.forecast.window_s or UNKNOWN_S)
