"""A simulated engine: rollouts share it, each step gives all running ones a token, and its cache of keys and values may fill.

    add -> waiting --room, cache--> running --its last token--> ended
                ^-------- preempted: the cache is full ----'

Prompts, and contexts that were lost, are computed before the next decode step. A rollout that is preempted keeps its tokens and
loses its place: the newest goes first, and it waits at the front, as in vLLM.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from ....common.types import Ticket
from .cluster import PoolDevice
from .decoding import DecodePace

_NEVER = float("inf")
# steps: closer than this to its end, a rollout has ended
_ROUNDING = 1e-6


@dataclass(slots=True)
class SimulatedGroup:
    """A ticket in the hands of an actor."""

    ticket: Ticket
    rewards: list[float]
    prompt_tokens: int
    started_s: float
    num_left: int  # rollouts that are not generated yet
    num_running: int = 0
    verdict_s: float = 0.0  # time of the last verdict so far
    ended: list[SimulatedRollout] = field(default_factory=list)
    last_step: float = -1.0  # at which the last of those that run ends
    last: SimulatedRollout | None = None  # that one

    def forget_rollouts(self) -> None:
        """Group and rollouts hold each other: let go of them, so that both are freed."""
        self.ended, self.last = [], None

    def note_end(self, rollout: SimulatedRollout, step: float) -> None:
        """A rollout of this group will end at this step."""
        if step > self.last_step:
            self.last_step, self.last = step, rollout


@dataclass(slots=True)
class SimulatedRollout:
    """One completion. Tokens are real numbers until it has ended."""

    group: SimulatedGroup
    index: int
    length: int
    tokens: float = 0.0  # before it was admitted last
    admission: int = 0  # number of its last admission; 0: it does not run
    admitted_at: float = 0.0  # step of it
    pieces: list[tuple[int, float]] = field(default_factory=list)  # (version, tokens), before it was admitted last
    ended_s: float = 0.0  # time of its last token

    @property
    def is_last(self) -> bool:
        """Whether its group ends with it, if nothing is preempted until then."""
        return self.group.last is self


@dataclass(slots=True)
class EngineTotals:
    """Sums since the engine started."""

    busy_s: float = 0.0  # rollouts run, or their contexts are computed
    idle_s: float = 0.0
    weights_s: float = 0.0  # generation is paused for new weights
    steps: float = 0.0
    tokens: float = 0.0  # sampled; as many rollouts ran, summed over steps
    waiting: float = 0.0  # rollouts that waited for room, summed over steps
    kv_use: float = 0.0  # share of the cache that was taken, summed over steps
    preemptions: int = 0


class SimulatedEngine:
    """The engine of one actor, from one time to the next.

    Example:
        engine = SimulatedEngine(PoolDevice(step_base_s=0.02))
        engine.add(group, [100, 120], now=0.0)
        engine.next_look_s()                 # 2.4: the group ends
        engine.advance(2.4)                  # both rollouts, with the times of their ends
    """

    def __init__(self, device: PoolDevice, now: float = 0.0) -> None:
        self.totals = EngineTotals()
        self.now = now
        self._device = device
        # (step of its end, admission, rollout), ascending; those that were preempted meanwhile are skipped
        self._running: list[tuple[float, int, SimulatedRollout]] = []
        # (admission, rollout), ascending, where the cache has a limit
        self._order: list[tuple[int, SimulatedRollout]] = []
        self._waiting: deque[SimulatedRollout] = deque()
        self._num_running = self._num_admitted = 0
        self._context = 0.0  # tokens of all running rollouts and their prompts
        self._delay_s = 0.0  # contexts that are computed before the next step
        self._pause_s = 0.0  # of generation, before that
        self._cache_was_full = False  # since a rollout ended last
        self._marks: list[tuple[float, int]] = []  # (step, version that samples from it on)
        self.speed = 1.0  # share of the device's
        self._step_s = [device.step_s(running) for running in range(device.most_running + 1)]

    @property
    def num_running(self) -> int:
        """Rollouts that run."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """Rollouts that wait for room."""
        return len(self._waiting)

    @property
    def context_tokens(self) -> float:
        """Tokens in the cache."""
        return self._context

    # --- from outside; `now` is never earlier than in the last call -------------------------------------------------------

    def add(self, group: SimulatedGroup, lengths: list[int], now: float) -> list[SimulatedRollout]:
        """Take the rollouts of a group. Returns those of others that ended meanwhile."""
        ended = self.advance(now)
        self._waiting.extend([SimulatedRollout(group, index, length) for index, length in enumerate(lengths)])
        self._admit()
        return ended

    def load_weights(self, version: int, pause_s: float, *, clear_kv: bool, now: float) -> list[SimulatedRollout]:
        """Pause, and sample with `version` from then on. `clear_kv`: contexts are computed again.

        Returns the rollouts that ended meanwhile.
        """
        ended = self.advance(now)
        self._pause_s += pause_s
        if clear_kv:
            self._delay_s += self._context * self._device.prefill_s_per_token / self.speed
        self._marks.append((self.totals.steps, version))
        return ended

    @property
    def works(self) -> bool:
        """Whether rollouts run."""
        return self._num_running > 0

    def set_speed(self, speed: float) -> None:
        """Everything but a pause takes 1 / `speed` of the device's time, from the time of the last `advance` on."""
        self._delay_s *= self.speed / speed
        self.speed = speed

    def next_look_s(self) -> float:
        """When to look next, if nothing is added until then: a group ends, or the rollouts that run must be chosen anew.

        Rollouts that end before, while others of their group go on, concern nobody but the engine.
        """
        device, step, context = self._device, self.totals.steps, self._context
        running, kv_tokens, seconds = self._num_running, device.kv_tokens, 0.0
        if not kv_tokens and not device.step_per_kv_token_s and not self._waiting:
            return self._next_group_s()
        for end, admission, rollout in self._running:
            if admission != rollout.admission:
                continue
            steps = max(end - step, 0.0)
            if kv_tokens and running > 1 and context + running * steps > kv_tokens:
                steps = max(0.0, (kv_tokens - context) / running)
                return self._begins_s() + seconds + self._pace(running, context).seconds(steps)
            seconds += self._pace(running, context).seconds(steps)
            if self._waiting or rollout.is_last:
                return self._begins_s() + seconds
            step = end
            # its prompt stays: another one of its group goes on
            context += running * steps - rollout.length
            running -= 1
        return _NEVER

    def _next_group_s(self) -> float:
        """The same where the time of a step depends on the number of running rollouts alone."""
        step, running, seconds, step_s = self.totals.steps, self._num_running, 0.0, self._step_s
        for end, _, rollout in self._running:
            if end > step:
                seconds += (end - step) * step_s[running] / self.speed
                step = end
            if rollout.group.last is rollout:
                return self._begins_s() + seconds
            running -= 1
        return _NEVER

    def advance(self, now: float) -> list[SimulatedRollout]:
        """Let time pass until `now`. Returns the rollouts that ended, in order."""
        ended: list[SimulatedRollout] = []
        rounding_s = 1e-9 * max(1.0, now)
        while True:
            if self._pause_s or self._delay_s:
                self._spend_delays(now)
            if self._num_running == 0:
                self.totals.idle_s += now - self.now
                break
            pace = self._pace(self._num_running, self._context)
            steps = self._next_step() - self.totals.steps
            needed_s, left_s = pace.seconds(steps), now - self.now
            if needed_s > left_s + rounding_s:
                if left_s > 0:
                    self._decode(pace.steps(left_s), left_s)
                break
            self._decode(steps, min(needed_s, left_s))
            self._settle(ended)
        self.now = now
        return ended

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _pace(self, running: int, context: float) -> DecodePace:
        return DecodePace.of(self._device, running, context, self.speed)

    def _begins_s(self) -> float:
        """When the next decode step begins."""
        return self.now + self._pause_s + self._delay_s

    def _spend_delays(self, now: float) -> None:
        paused_s = min(self._pause_s, now - self.now)
        self._pause_s -= paused_s
        self.totals.weights_s += paused_s
        self.now += paused_s
        spent_s = min(self._delay_s, now - self.now)
        self._delay_s -= spent_s
        self.totals.busy_s += spent_s
        self.now += spent_s

    def _decode(self, steps: float, seconds: float) -> None:
        totals, running = self.totals, self._num_running
        kv_tokens = self._device.kv_tokens
        if kv_tokens:
            totals.kv_use += steps * min(1.0, (self._context + running * steps / 2) / kv_tokens)
        self._context += running * steps
        totals.steps += steps
        totals.tokens += running * steps
        if self._waiting:
            totals.waiting += len(self._waiting) * steps
        totals.busy_s += seconds
        self.now += seconds

    def _next_step(self) -> float:
        """The step at which the first rollout ends or the cache is full."""
        running = self._running
        while running[0][1] != running[0][2].admission:
            del running[0]  # it was preempted
        end = running[0][0]
        if self._device.kv_tokens and self._num_running > 1:
            room = self._device.kv_tokens - self._context
            return min(end, self.totals.steps + max(0.0, room / self._num_running))
        return max(end, self.totals.steps)

    def _settle(self, ended: list[SimulatedRollout]) -> None:
        """End every rollout that has its last token, or preempt the newest; then admit others."""
        running, last, place = self._running, self.totals.steps + _ROUNDING, 0
        before = len(ended)
        while place < len(running) and (running[place][0] <= last or running[place][1] != running[place][2].admission):
            _, admission, rollout = running[place]
            place += 1
            if admission == rollout.admission:
                self._stop(rollout)
                rollout.ended_s = self.now
                ended.append(rollout)
        del running[:place]
        if len(ended) == before:
            self._preempt()
        else:
            self._cache_was_full = False
        if self._waiting:
            self._admit()

    def _preempt(self) -> None:
        while self._order[-1][0] != self._order[-1][1].admission:
            self._order.pop()
        _, rollout = self._order.pop()
        self._stop(rollout)
        self._waiting.appendleft(rollout)
        self._cache_was_full = True
        self.totals.preemptions += 1

    def _stop(self, rollout: SimulatedRollout) -> None:
        """A rollout does not run any more: note who sampled its tokens, and give its place in the cache back."""
        step = self.totals.steps
        self._note_versions(rollout, step)
        rollout.tokens += step - rollout.admitted_at
        rollout.admission = 0
        group = rollout.group
        self._num_running -= 1
        group.num_running -= 1
        self._context -= rollout.tokens
        if group.num_running == 0:
            self._context -= group.prompt_tokens
        if self._num_running == 0:
            self._context = 0.0  # and so would it be without rounding
            self._order.clear()

    def _note_versions(self, rollout: SimulatedRollout, step: float) -> None:
        """Add (version, tokens) of a rollout that ran until this step."""
        marks, start = self._marks, rollout.admitted_at
        if marks and marks[-1][0] <= start:
            rollout.pieces.append((marks[-1][1], step - start))
            return
        first = max(bisect_right(marks, (start + _ROUNDING, 1 << 62)) - 1, 0)
        for place in range(first, len(marks)):
            begin = max(marks[place][0], start)
            end = marks[place + 1][0] if place + 1 < len(marks) else step
            if end > begin + _ROUNDING:
                rollout.pieces.append((marks[place][1], end - begin))

    def _admit(self) -> None:
        device, waiting, step = self._device, self._waiting, self.totals.steps
        most, kv_tokens = device.most_running, device.kv_tokens
        before = self._num_admitted
        while waiting and self._num_running < most:
            rollout = waiting[0]
            group = rollout.group
            needed = rollout.tokens + (group.prompt_tokens if group.num_running == 0 else 0)
            if kv_tokens and self._num_running > 0 and (self._cache_was_full or self._context + needed >= kv_tokens):
                break
            waiting.popleft()
            self._num_admitted += 1
            self._num_running += 1
            group.num_running += 1
            self._context += needed
            self._delay_s += needed * device.prefill_s_per_token / self.speed
            rollout.admission, rollout.admitted_at = self._num_admitted, step
            end = step + rollout.length - rollout.tokens
            self._running.append((end, self._num_admitted, rollout))
            group.note_end(rollout, end)
            if kv_tokens:
                self._order.append((self._num_admitted, rollout))
        if self._num_admitted > before:
            self._running.sort()
