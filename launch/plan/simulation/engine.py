"""A simulated engine: rollouts share it, each step gives all running ones a token, and its cache of keys and values may fill.

    add -> waiting --room, cache--> running --its last token--> ended
                ^-------- preempted: the cache is full ----'

Prompts, and contexts that were lost, are computed before the next decode step. A rollout that is preempted keeps its tokens and
loses its place: the newest goes first, and it waits at the front, as in vLLM.
"""

from __future__ import annotations

import heapq
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
        engine.next_event_s()                # 2.0
        engine.advance(2.0)                  # [the rollout of 100 tokens]
    """

    def __init__(self, device: PoolDevice, now: float = 0.0) -> None:
        self.totals = EngineTotals()
        self.now = now
        self._device = device
        self._running: list[tuple[float, int, SimulatedRollout]] = []  # heap of (step of its end, admission, rollout)
        self._order: list[tuple[int, SimulatedRollout]] = []  # (admission, rollout), where the cache has a limit
        self._waiting: deque[SimulatedRollout] = deque()
        self._num_running = self._num_admitted = 0
        self._context = 0.0  # tokens of all running rollouts and their prompts
        self._prefill_s = self._pause_s = 0.0  # to be spent before the next step
        self._cache_was_full = False  # since a rollout ended last
        self._marks: list[tuple[float, int]] = []  # (step, version that samples from it on)
        self.speed = 1.0  # share of the device's
        self._pace = DecodePace.of(device, 0, 0.0)

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
        self._waiting.extend(SimulatedRollout(group, index, length) for index, length in enumerate(lengths))
        self._admit()
        return ended

    def load_weights(self, version: int, pause_s: float, *, clear_kv: bool, now: float) -> list[SimulatedRollout]:
        """Pause, and sample with `version` from then on. `clear_kv`: contexts are computed again.

        Returns the rollouts that ended meanwhile.
        """
        ended = self.advance(now)
        self._pause_s += pause_s
        if clear_kv:
            self._prefill_s += self._context * self._device.prefill_s_per_token / self.speed
        self._marks.append((self.totals.steps, version))
        return ended

    @property
    def works(self) -> bool:
        """Whether rollouts run."""
        return self._num_running > 0

    def set_speed(self, speed: float) -> None:
        """Everything but a pause takes 1 / `speed` of the device's time, from the time of the last `advance` on."""
        self._prefill_s *= self.speed / speed
        self.speed = speed
        self._set_pace()

    def next_event_s(self) -> float:
        """When a rollout ends or is preempted next, if nothing is added until then."""
        if self._num_running == 0:
            return _NEVER
        return self.now + self._pause_s + self._prefill_s + self._pace.seconds(self._next_step() - self.totals.steps)

    def advance(self, now: float) -> list[SimulatedRollout]:
        """Let time pass until `now`. Returns the rollouts that ended, in order."""
        ended: list[SimulatedRollout] = []
        rounding_s = 1e-9 * max(1.0, now)
        while True:
            self._spend_pause(now)
            if self._num_running == 0:
                self.totals.idle_s += now - self.now
                break
            self._spend_prefill(now)
            target = self._next_step()
            needed_s, left_s = self._pace.seconds(target - self.totals.steps), now - self.now
            if needed_s > left_s + rounding_s:
                if left_s > 0:
                    self._decode(self._pace.steps(left_s), left_s)
                break
            self._decode(target - self.totals.steps, min(needed_s, left_s))
            self._settle(ended)
        self.now = now
        return ended

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _spend_pause(self, now: float) -> None:
        paused_s = min(self._pause_s, now - self.now)
        self._pause_s -= paused_s
        self.totals.weights_s += paused_s
        self.now += paused_s

    def _spend_prefill(self, now: float) -> None:
        spent_s = min(self._prefill_s, now - self.now)
        self._prefill_s -= spent_s
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
        totals.waiting += len(self._waiting) * steps
        totals.busy_s += seconds
        self.now += seconds
        if self._pace.growth_s:
            self._set_pace()

    def _next_step(self) -> float:
        """The step at which the first rollout ends or the cache is full."""
        while self._running[0][1] != self._running[0][2].admission:
            heapq.heappop(self._running)  # it was preempted
        end = self._running[0][0]
        if self._device.kv_tokens and self._num_running > 1:
            room = self._device.kv_tokens - self._context
            return min(end, self.totals.steps + max(0.0, room / self._num_running))
        return end

    def _settle(self, ended: list[SimulatedRollout]) -> None:
        """End every rollout that has its last token, or preempt the newest; then admit others."""
        running, step, before = self._running, self.totals.steps, len(ended)
        while running and (running[0][0] <= step + _ROUNDING or running[0][1] != running[0][2].admission):
            _, admission, rollout = heapq.heappop(running)
            if admission == rollout.admission:
                self._stop(rollout)
                ended.append(rollout)
        if len(ended) == before:
            self._preempt()
        else:
            self._cache_was_full = False
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
        rollout.pieces += self._sampled_since(rollout.admitted_at)
        rollout.tokens += self.totals.steps - rollout.admitted_at
        rollout.admission = 0
        group = rollout.group
        self._num_running -= 1
        group.num_running -= 1
        self._context -= rollout.tokens + (group.prompt_tokens if group.num_running == 0 else 0)
        if self._num_running == 0:
            self._context = 0.0  # and so would it be without rounding
            self._order.clear()

    def _sampled_since(self, start: float) -> list[tuple[int, float]]:
        """(version, tokens) of a rollout that ran from this step until now."""
        marks, step = self._marks, self.totals.steps
        first = max(bisect_right(marks, (start + _ROUNDING, 1 << 62)) - 1, 0)
        pieces: list[tuple[int, float]] = []
        for place in range(first, len(marks)):
            begin = max(marks[place][0], start)
            end = marks[place + 1][0] if place + 1 < len(marks) else step
            if end > begin + _ROUNDING:
                pieces.append((marks[place][1], end - begin))
        return pieces

    def _admit(self) -> None:
        device, waiting = self._device, self._waiting
        most, kv_tokens = device.most_running, device.kv_tokens
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
            self._prefill_s += needed * device.prefill_s_per_token / self.speed
            rollout.admission, rollout.admitted_at = self._num_admitted, self.totals.steps
            end = self.totals.steps + rollout.length - rollout.tokens
            heapq.heappush(self._running, (end, self._num_admitted, rollout))
            if kv_tokens:
                self._order.append((self._num_admitted, rollout))
        self._set_pace()

    def _set_pace(self) -> None:
        self._pace = DecodePace.of(self._device, self._num_running, self._context, self.speed)
