"""When the group of a ticket would be back, how long it may take, and how good the forecasts were.

    heartbeats, groups -> speeds.py (each actor), lengths.py (each kind of prompt)
    actors, places     -> window.py: how long a ticket may take          (`plan`, when the head moves)
    back_s, slack_s    -> Dispatch: who gets which ticket

All of it follows from messages and times. Nothing is recorded: a buffer that starts again learns within a few groups, and until
then it gives tickets as if all actors were equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ...common.types import Group, Prompt, Sampling, Ticket, TicketKind
from .lengths import LengthForecast
from .speeds import ActorSpeed
from .window import ActorSpeeds, TicketWindow, best_window

# actors are unequal if the slowest takes so many times as long as the fastest
UNEQUAL = 1.3
# of an actor's time for a group: the soonest actor counts as sooner if it takes less than this share of it
ABOUT_AS_SOON = 0.8
# part of the present version that counts as passed
PASSED = 1 / 3
# An actor that would be late with every prompt is given one all the same, once it has been given none for this many times as
# long as its group would take: so trying costs at most one part in as many of the time. Sooner if it was observed less often.
OUT_OF_SIGHT = 20.0
# steps of the learner that their mean time remembers, about
LEARNER_MEMORY = 8.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What was foretold when a ticket was given."""

    actor: str
    given_s: float
    load: int  # rollouts in flight at the actor, this ticket's among them
    back_s: float | None  # seconds until the group


@dataclass(frozen=True, slots=True)
class KnownActor:
    """An actor that may be given tickets: its name, and the rollouts that it works on at once."""

    name: str
    room: int


@dataclass(frozen=True, slots=True)
class Back:
    """Seconds until a group is back: on average, and if it is long."""

    mean_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class _Soonest:
    """The actor that would bring a group back first, at the load that it has in the plan."""

    beyond_s: float
    step_s: float

    def back_s(self, longest: float) -> float:
        """Seconds of a group."""
        return self.beyond_s + longest * self.step_s


class Forecast:
    """The forecasts of one run."""

    def __init__(self) -> None:
        self.lengths = LengthForecast()
        self._speeds: dict[str, ActorSpeed] = {}
        # by ordinal
        self._under_way: dict[int, Expected] = {}
        # actor -> when it was given its last ticket
        self._given_s: dict[str, float] = {}
        self._window: TicketWindow | None = None
        self._soonest: _Soonest | None = None
        # tokens of a usual prompt, and of the longest rollout of its group
        self._usual_prompt = self._usual_longest = 0.0
        self._eta = 0
        # of the learner, from a batch to the next question for one
        self._learner_s: float | None = None
        self._served_s: float | None = None
        self.is_unequal = False
        # seconds of a usual group at a usual actor
        self.mean_s = 1.0
        self._num_slow = 0
        # of groups since the last call of `metrics`: (foretold - took) / took
        self._errors: list[float] = []
        self._num_late = 0

    # --- what is observed -------------------------------------------------------------------------

    def note_heartbeat(self, actor: str, sums: Mapping[str, float], leased: int) -> None:
        """An actor reports its sums. `leased`: rollouts that it has in flight."""
        if sums:
            self._speed(actor).note_heartbeat(sums, leased)

    def note_issue(self, actor: str, ticket: Ticket, leased: int, now: float) -> None:
        """A ticket was given to an actor, which has `leased` rollouts in flight with it."""
        back_s = None if ticket.started else self.back_s(actor, ticket.prompt, ticket.sampling, leased)
        self._under_way[ticket.ordinal] = Expected(actor, now, leased, back_s)
        self._given_s[actor] = now

    def note_group(self, ticket: Ticket, group: Group, leased: int, now: float) -> None:
        """A group came. `leased`: rollouts in flight at its actor, this group's among them."""
        expected = self._under_way.pop(ticket.ordinal, None)
        if not group.rollouts:
            return
        prompt_tokens = len(group.prompt.token_ids) / 4
        longest = float(max(rollout.num_tokens for rollout in group.rollouts))
        if ticket.kind is TicketKind.train:
            self.lengths.note(group.prompt, group)
            share = 1 / min(self.lengths.num_groups, 256)
            self._usual_prompt += share * (prompt_tokens - self._usual_prompt)
            self._usual_longest += share * (longest - self._usual_longest)
        if expected is None or ticket.started:
            return
        took_s = max(now - expected.given_s, 1e-9)
        load = (expected.load + leased) / 2
        self._speed(expected.actor).note_group(longest=longest, prompt_tokens=prompt_tokens, load=load, took_s=took_s)
        if expected.back_s is not None:
            self._errors.append((expected.back_s - took_s) / took_s)
            self._num_late += expected.back_s < took_s

    def note_end(self, ordinal: int) -> None:
        """A ticket ended without a group."""
        self._under_way.pop(ordinal, None)

    def note_served(self, now: float) -> None:
        """The learner was sent a batch."""
        self._served_s = now

    def note_asked(self, now: float) -> None:
        """The learner asks for a batch, the first time."""
        if self._served_s is None:
            return
        took_s, self._served_s = now - self._served_s, None
        self._learner_s = took_s if self._learner_s is None else self._learner_s + (took_s - self._learner_s) / LEARNER_MEMORY

    def learner_starts(self) -> None:
        """A learner greets: how long it was away is no time of a step."""
        self._served_s = None

    def forget(self, actor: str) -> None:
        """An actor is gone."""
        self._speeds.pop(actor, None)
        self._given_s.pop(actor, None)

    def forget_work(self) -> None:
        """Nobody works on any ticket: a generation begins, or the run ends."""
        self._under_way.clear()

    def _speed(self, actor: str) -> ActorSpeed:
        return self._speeds.setdefault(actor, ActorSpeed())

    # --- what is foretold -------------------------------------------------------------------------

    def expect(self, actor: str, prompt: Prompt, sampling: Sampling, load: int) -> Back | None:
        """When the group of a ticket for this prompt would be back, with `load` rollouts in flight at the actor.

        The ticket's own rollouts are among them. None for an actor, or lengths, of which nothing is known yet.
        """
        speed = self._speeds.get(actor)
        longest = self.lengths.longest(prompt, sampling.n, sampling.max_tokens)
        if speed is None or not speed.is_known or longest is None:
            return None
        beyond_s, step_s = speed.beyond_s(len(prompt.token_ids) / 4), speed.step_s(load)
        return Back(beyond_s + longest.expected * step_s, beyond_s + longest.high * step_s)

    def back_s(self, actor: str, prompt: Prompt, sampling: Sampling, load: int) -> float | None:
        """Expected seconds until that group would be back."""
        expected = self.expect(actor, prompt, sampling, load)
        return None if expected is None else expected.mean_s

    def expected(self, ordinal: int) -> Expected | None:
        """What was foretold when a ticket that is under way was given."""
        return self._under_way.get(ordinal)

    def usual_s(self, actor: str, load: int) -> float | None:
        """Seconds until a usual group would be back. None for an actor of which nothing is known yet."""
        speed = self._speeds.get(actor)
        if speed is None or not speed.is_known:
            return None
        return speed.duration_s(longest=self._usual_longest, prompt_tokens=self._usual_prompt, load=load)

    @property
    def window_s(self) -> float | None:
        """How long a ticket may take; None while too little is known."""
        return None if self._window is None else self._step_s * (self._eta + 1)

    @property
    def _step_s(self) -> float:
        """Seconds from one batch to the next, if no group is waited for longer than it is worth."""
        assert self._window is not None
        return max(self._window.ticket_s / (self._eta + 1), self._learner_s or 0.0)

    def slack_s(self, versions_left: int) -> float:
        """Seconds that a group may take which the batch `versions_left` after the next one may hold as the last.

        From a point inside the present version, whatever part of it has passed. To count what has passed would leave slow
        actors idle for the rest of every version, which costs more than that the learner waits for a part of one.
        """
        return float("inf") if self._window is None else (versions_left + 1 - PASSED) * self._step_s

    def is_soon(self, back: Back, prompt: Prompt, sampling: Sampling, slack_s: float) -> bool:
        """Whether a group would come within `slack_s` even if it is long, or nobody would bring it much sooner."""
        if back.high_s <= slack_s or self._soonest is None:
            return True
        longest = self.lengths.longest(prompt, sampling.n, sampling.max_tokens)
        return longest is None or self._soonest.back_s(longest.expected) >= ABOUT_AS_SOON * back.mean_s

    def is_out_of_sight(self, actor: str, back_s: float, now: float) -> bool:
        """Whether the actor was given nothing for so long that a ticket which takes it `back_s` is worth what it may cost."""
        times = min(OUT_OF_SIGHT, self._speed(actor).num_noted)
        return now - self._given_s.setdefault(actor, now) > times * back_s

    # --- the plan ---------------------------------------------------------------------------------

    def plan(self, workers: Sequence[KnownActor], sampling: Sampling, *, batch: int, eta: int) -> None:
        """Decide how long a ticket may take. `batch`: groups a step."""
        known = [(worker, speed) for worker in workers if (speed := self._speeds.get(worker.name)) and speed.is_known]
        self._eta, self._window = eta, None
        if not known or not self.lengths.num_groups:
            return
        self.lengths.rare = 1 / max(batch, 2)
        usual = self.lengths.usual(sampling.n, sampling.max_tokens)
        assert usual is not None
        beyond = np.array([speed.beyond_s(self._usual_prompt) for _, speed in known])
        at_zero, slope = np.array([speed.step_line() for _, speed in known]).T
        actors = ActorSpeeds(
            fixed_s=beyond + usual.expected * at_zero,
            per_rollout_s=usual.expected * slope,
            high_fixed_s=beyond + usual.high * at_zero,
            high_per_rollout_s=usual.high * slope,
            room=np.array([float(worker.room) for worker, _ in known]),
        )
        self._window = best_window(actors, sampling.n, batch * (eta + 1))
        self._judge(actors, known, sampling.n)

    def _judge(self, actors: ActorSpeeds, known: Sequence[tuple[KnownActor, ActorSpeed]], num_rollouts: int) -> None:
        """How unequal the actors are, and which would be first."""
        least = actors.fixed_s + actors.per_rollout_s * num_rollouts
        self.is_unequal = bool(least.max() > UNEQUAL * least.min())
        self.mean_s = float((actors.fixed_s + actors.per_rollout_s * actors.room / 2).mean())
        ticket_s = self._step_s * (self._eta + 1)
        load = actors.load_within(ticket_s, num_rollouts)
        self._num_slow = int((load == 0).sum())
        first = int(least.argmin())
        speed = known[first][1]
        self._soonest = _Soonest(speed.beyond_s(self._usual_prompt), speed.step_s(max(float(load[first]), num_rollouts)))

    def metrics(self) -> dict[str, float]:
        """Since the last call, forecast/: error_mean and error_p90, bias, late (a share), groups; and the window, now."""
        errors, num_late = self._errors, self._num_late
        self._errors, self._num_late = [], 0
        found: dict[str, float] = {}
        if errors:
            sizes = sorted(map(abs, errors))
            found["forecast/error_mean"] = fmean(sizes)
            found["forecast/error_p90"] = sizes[int(0.9 * (len(sizes) - 1))]
            found["forecast/bias"] = fmean(errors)
            found["forecast/late"] = num_late / len(errors)
        if self._window is not None:
            found["forecast/window_s"] = self._step_s * (self._eta + 1)
            found["forecast/slow_actors"] = float(self._num_slow)
        return found
