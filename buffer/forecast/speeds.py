"""How fast one actor is: seconds of a decode step at its load, and seconds of a ticket beyond its decoding.

Two sources: the sums that heartbeats report of the engine's steps, and the groups that came back. Both are fitted by a straight
line whose older observations count less, so that an actor that becomes slower is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping

# observations that a line remembers, about
MEMORY = 24.0
# a number of tokens, rollouts or seconds beyond that is a fault of whoever reports it
ABSURD = 1e9
# so many times as long as another observation allows: whoever took the time was held up
HELD_UP = 4.0
# one after the other, until they count as the actor's own pace
HALTS = 2


class Line:
    """y = at_zero + slope x, fitted to observations whose weights fade. Neither number is below 0."""

    def __init__(self, memory: float = MEMORY) -> None:
        self._memory = memory
        self._w = self._wx = self._wy = self._wxx = self._wxy = 0.0
        self._num_held_up = 0

    @property
    def num_noted(self) -> float:
        """Observations, of which older ones count less."""
        return self._w

    @property
    def is_known(self) -> bool:
        """Whether there was any observation."""
        return self._w > 0

    def note_step(self, x: float, y: float) -> None:
        """Count the time `y` of a step with `x` rollouts. Nothing makes one shorter, but a halt of the process makes it longer.

        So one that is much longer than those before counts as HELD_UP times their length, and a third in a row for more than
        all before: the actor is slower now. Nothing is kept of those before either if they are much longer than this one.
        """
        if self._w > 0:
            mean_x, mean_y = self._wx / self._w, self._wy / self._w
            most = HELD_UP * _at_most(mean_y, mean_x, x)
            self._num_held_up = self._num_held_up + 1 if y > most else 0
            if self._num_held_up > HALTS or mean_y > HELD_UP * _at_most(y, x, mean_x):
                self._w = self._wx = self._wy = self._wxx = self._wxy = 0.0
                self._num_held_up = 0
            else:
                y = min(y, most)
        self.note(x, y)

    def note(self, x: float, y: float) -> None:
        """Count one observation; one that is absurd is left out."""
        if not (0 <= x <= ABSURD and 0 <= y <= ABSURD):
            return
        keep = 1 - 1 / self._memory
        self._w = self._w * keep + 1
        self._wx, self._wy = self._wx * keep + x, self._wy * keep + y
        self._wxx, self._wxy = self._wxx * keep + x * x, self._wxy * keep + x * y

    def fit(self) -> tuple[float, float]:
        """(at_zero, slope). Observations at about one x tell no slope: it is 0 then."""
        if self._w == 0:
            return 0.0, 0.0
        mean_x, mean_y = self._wx / self._w, self._wy / self._w
        spread = self._wxx / self._w - mean_x * mean_x
        # a spread of less than a twentieth of x says more about noise than about the slope
        floor = (0.05 * mean_x) ** 2
        slope = (self._wxy / self._w - mean_x * mean_y) / (spread + floor) if spread > 0 else 0.0
        slope = min(max(slope, 0.0), mean_y / mean_x if mean_x > 0 else 0.0)
        return max(mean_y - slope * mean_x, 0.0), slope

    def at(self, x: float) -> float:
        """The line's y at x."""
        at_zero, slope = self.fit()
        return at_zero + slope * x


def _at_most(y: float, x: float, other: float) -> float:
    """The most that a step with `other` rollouts takes if one with `x` takes `y`: on a line from 0 up that never falls."""
    if other <= x:
        return y
    return y * other / x if x > 0 else float("inf")


class ActorSpeed:
    """One actor. Example: speed.duration_s(longest=800.0, prompt_tokens=200, load=16.0)."""

    def __init__(self) -> None:
        # rollouts in a step -> seconds of it
        self._step = Line()
        # tokens of the prompt -> seconds of a ticket beyond those of its steps: prefill, verdicts, pauses, the way to and fro
        self._beyond = Line()
        self._sums: Mapping[str, float] = {}
        # whether heartbeats tell of steps: what groups say of them is not needed then
        self._counts_steps = False
        # rollouts that run, as a share of those that are leased: some of a group end before the others
        self._running_share = 1.0

    @property
    def is_known(self) -> bool:
        """Whether anything was observed."""
        return self._step.is_known

    @property
    def num_noted(self) -> float:
        """Observations of its steps, of which older ones count less."""
        return self._step.num_noted

    def note_heartbeat(self, sums: Mapping[str, float], leased: int) -> None:
        """The actor's sums since it started. `leased`: rollouts of all tickets that it holds."""
        last, self._sums = self._sums, dict(sums)
        steps = sums.get("engine_steps", 0.0) - last.get("engine_steps", 0.0)
        busy_s = sums.get("busy_s", 0.0) - last.get("busy_s", 0.0)
        if steps <= 0 or busy_s <= 0 or not last:
            return
        running = max(sums.get("engine_running", 0.0) - last.get("engine_running", 0.0), 0.0) / steps
        step_s = busy_s / steps
        if not (running <= ABSURD and step_s <= ABSURD):
            return
        self._counts_steps = True
        self._step.note_step(running, step_s)
        if leased > 0:
            self._running_share += (min(running / leased, 1.0) - self._running_share) / MEMORY

    def note_group(self, *, longest: float, prompt_tokens: float, load: float, took_s: float) -> None:
        """A group came back `took_s` after its ticket was given. `load`: mean rollouts in flight at the actor meanwhile."""
        if longest <= 0:
            return
        if not self._counts_steps:
            beyond_s = min(self._beyond.at(prompt_tokens), took_s / 2)
            self._step.note_step(load, (took_s - beyond_s) / longest)
            return
        if self._beyond.is_known:
            took_s = min(took_s, HELD_UP * self.duration_s(longest=longest, prompt_tokens=prompt_tokens, load=load))
        self._beyond.note(prompt_tokens, max(took_s - longest * self.step_s(load), 0.0))

    def step_s(self, load: float) -> float:
        """Seconds of a decode step with `load` rollouts in flight."""
        return self._step.at(load * self._running_share)

    def step_line(self) -> tuple[float, float]:
        """(seconds, seconds for each rollout in flight) of a decode step."""
        at_zero, slope = self._step.fit()
        return at_zero, slope * self._running_share

    def beyond_s(self, prompt_tokens: float) -> float:
        """Seconds of a ticket beyond those of its steps."""
        return self._beyond.at(prompt_tokens)

    def duration_s(self, *, longest: float, prompt_tokens: float, load: float) -> float:
        """Seconds from a ticket to its group, with `load` rollouts in flight at the actor, this ticket's among them."""
        return self.beyond_s(prompt_tokens) + longest * self.step_s(load)
