"""The in-flight cap, against an engine with a cache of keys and values whose size the cap does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from statistics import fmean, pstdev

import pytest
from prolong.actor.engines.load import EngineLoad
from prolong.actor.in_flight import STANDING, InFlightCap

GROUP = 8
PROMPT = 100
# seconds of a step: in any case, per rollout that runs, and per token that is computed without being sampled
STEP_S, ROLLOUT_S, PREFILL_S = 0.01, 0.0001, 0.00004


@dataclass(slots=True)
class Rollout:
    ticket: int
    length: int
    made: int = 0

    @property
    def size(self) -> int:
        return PROMPT + self.made


@dataclass
class Engine:
    """Continuous batching with `slots` places and room for `kv_tokens`: who grows over it pushes out who came last."""

    slots: int
    kv_tokens: int
    running: list[Rollout] = field(default_factory=list)
    waiting: list[Rollout] = field(default_factory=list)
    load: EngineLoad = field(default_factory=EngineLoad)
    now: float = 0.0
    ended: int = 0

    def step(self) -> list[Rollout]:
        """Sample a token of every rollout that runs; returns those that end."""
        used, computed = sum(rollout.size for rollout in self.running), 0
        while self.waiting and len(self.running) < self.slots and used + self.waiting[0].size < self.kv_tokens:
            self.running.append(self.waiting.pop(0))
            used, computed = used + self.running[-1].size, computed + self.running[-1].size
        while used + len(self.running) > self.kv_tokens and len(self.running) > 1:
            self.waiting.insert(0, self.running.pop())
            used, self.load.preemptions = used - self.waiting[0].size, self.load.preemptions + 1
        for rollout in self.running:
            rollout.made += 1
        number, ended = len(self.running), [rollout for rollout in self.running if rollout.made >= rollout.length]
        self.running = [rollout for rollout in self.running if rollout.made < rollout.length]
        self.load.step(number, number, len(self.waiting), used / self.kv_tokens)
        self.now += STEP_S + ROLLOUT_S * number + PREFILL_S * computed
        self.ended += len(ended)
        return ended


@dataclass
class Ran:
    """The second half of a time with an engine."""

    speed: float  # rollouts that ended per second
    caps: list[int]


def run(engine: Engine, *, capacity: int, fixed: bool = False, seconds: float = 300.0, pause_s: float = 1e9) -> Ran:
    """Work with a cap that is found, or `fixed` at the capacity. Lengths are heavy-tailed, with a mean of 200 tokens.

    pause_s: between two updates of the weights, after which the cache is computed anew.
    """
    draw, cap, room, caps = Random(0), InFlightCap(capacity), capacity, []
    groups: dict[int, int] = {}
    tickets, beats, pauses, half = 0, 0, 1, 0
    while engine.now < seconds:
        while not groups or GROUP * (len(groups) + 1) <= room:
            tickets += 1
            groups[tickets] = GROUP
            cap.note_groups([GROUP])
            engine.waiting += [Rollout(tickets, 1 + int(draw.lognormvariate(4.8, 1.0))) for _ in range(GROUP)]
        for rollout in engine.step():
            groups[rollout.ticket] -= 1
            if not groups[rollout.ticket]:
                del groups[rollout.ticket]
        if engine.now >= pauses * pause_s:
            pauses += 1
            engine.waiting, engine.running = engine.running + engine.waiting, []
        if engine.now >= beats:
            beats += 1
            room = room if fixed else cap.report(engine.load, GROUP * len(groups), engine.ended)
            if engine.now > seconds / 2:
                half = half or engine.ended
                caps.append(room)
    return Ran((engine.ended - half) / (seconds / 2), caps)


def best_fixed(slots: int, kv_tokens: int) -> tuple[float, int]:
    """The highest speed of any fixed cap, and the smallest cap that comes within a tenth of it."""
    speeds = {
        cap: run(Engine(slots, kv_tokens), capacity=cap, fixed=True, seconds=120.0).speed for cap in (16, 48, 96, 128, 256)
    }
    best = max(speeds.values())
    return best, min(cap for cap, speed in speeds.items() if speed >= 0.9 * best)


@pytest.mark.parametrize(("slots", "kv_tokens"), [(256, 12_000), (32, 10**9)])
def test_the_cap_finds_the_knee_of_an_engine_and_stays_there(slots: int, kv_tokens: int) -> None:
    best, knee = best_fixed(slots, kv_tokens)
    found = run(Engine(slots, kv_tokens), capacity=256)
    assert found.speed >= 0.9 * best
    assert fmean(found.caps) <= 1.5 * knee  # of the 256 that it began with
    assert pstdev(found.caps) <= 0.2 * fmean(found.caps)
    assert min(found.caps) >= 0.6 * knee


def test_fewer_rollouts_lose_their_place_than_at_full_capacity() -> None:
    full, found = Engine(256, 12_000), Engine(256, 12_000)
    run(full, capacity=256, fixed=True)
    run(found, capacity=256)
    assert found.load.preemptions < 0.4 * full.load.preemptions


def test_an_engine_that_has_room_is_left_at_its_capacity() -> None:
    assert set(run(Engine(256, 10**9), capacity=128, seconds=60.0).caps) == {128}


def test_the_queue_after_new_weights_is_no_reason_for_less() -> None:
    assert set(run(Engine(256, 60_000), capacity=128, seconds=60.0, pause_s=4.0).caps) == {128}


def test_the_cap_stays_while_there_is_no_work_to_try_more_with() -> None:
    cap = InFlightCap(64)
    cap.note_groups([8])
    load = EngineLoad()
    ended = 0
    for _ in range(20):
        for _ in range(10):
            load.step(8, 8, 40)
        cap.report(load, held=48, ended=ended)
    lowered = cap.rollouts
    assert lowered == 16
    for _ in range(20):
        for _ in range(10):
            load.step(8, 8, 0)
        ended += 8
        assert cap.report(load, held=8, ended=ended) == lowered
    for _ in range(3):
        for _ in range(10):
            load.step(16, 16, 0)
        ended += 16
        cap.report(load, held=16, ended=ended)
    assert cap.rollouts > lowered


def test_a_standing_queue_is_cut_to_one_group_at_once() -> None:
    cap = InFlightCap(256)
    cap.note_groups([8])
    load = EngineLoad()
    for report in range(STANDING):
        load.step(32, 32, 224)
        assert cap.report(load, held=256, ended=0) == (256 if report < STANDING - 1 else 40)


def test_what_was_cut_is_waited_for_before_more_is_cut() -> None:
    cap = InFlightCap(100)
    cap.note_groups([4])
    load = EngineLoad()
    load.step(80, 80, 20)
    load.preemptions = 30
    assert cap.report(load, held=100, ended=0) == 72  # without those that wait and an eighth of those that run, in groups
    load.step(80, 80, 20)
    load.preemptions = 60
    assert cap.report(load, held=96, ended=4) == 72
    load.step(70, 70, 0)
    assert cap.report(load, held=68, ended=32) == 72


def test_the_cap_is_never_below_one_group() -> None:
    for capacity, lowest in ((64, 16), (4, 4)):
        cap = InFlightCap(capacity)
        cap.note_groups([16])
        load = EngineLoad()
        for _ in range(9):
            load.step(2, 2, 14)
            load.preemptions += 9
            cap.report(load, held=min(16, cap.rollouts), ended=0)
        assert cap.rollouts == lowest


def test_a_report_without_a_step_of_the_engine_changes_nothing() -> None:
    cap = InFlightCap(64)
    for _ in range(5):
        assert cap.report(EngineLoad(), held=64, ended=0) == 64
