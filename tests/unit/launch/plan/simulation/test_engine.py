"""The simulated engine against one that goes token by token, and its cache of keys and values."""

from __future__ import annotations

import random

import pytest
from prolong.common.types import Prompt, Sampling, Ticket, TicketKind
from prolong.launch.plan.simulation.cluster import PoolDevice
from prolong.launch.plan.simulation.engine import SimulatedEngine, SimulatedGroup


def group(ordinal: int, n: int, prompt_tokens: int = 10) -> SimulatedGroup:
    prompt = Prompt(uid="p", domain="d", task="t", text="", token_ids=bytes(4 * prompt_tokens), verifier="none")
    ticket = Ticket(
        ordinal=ordinal,
        kind=TicketKind.train,
        prompt=prompt,
        sampling=Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=10_000),
        seed=0,
        generation=1,
        version=0,
        lease_s=1e9,
    )
    return SimulatedGroup(ticket, [1.0] * n, prompt_tokens, 0.0, n)


def naive_ends(device: PoolDevice, arrivals: list[tuple[float, list[int]]], pauses: list[tuple[float, float]]) -> list[float]:
    """When each rollout ends, in order of arrival: one decode step after the other, with nothing else than a list."""
    now, running, waiting = 0.0, [], []
    todo = [(time_s, index, length) for time_s, lengths in arrivals for index, length in enumerate(lengths)]
    ends: dict[int, float] = {}
    left = {number: length for number, (_, _, length) in enumerate(todo)}
    pauses, arrived = list(pauses), 0
    while any(left.values()):
        while arrived < len(todo) and todo[arrived][0] <= now + 1e-9:
            waiting.append(arrived)
            arrived += 1
        while waiting and len(running) < device.most_running:
            running.append(waiting.pop(0))
        if pauses and pauses[0][0] <= now + 1e-9:
            now += pauses.pop(0)[1]
        if not running:
            now = todo[arrived][0]
            continue
        now += device.step_s(len(running))
        for number in running:
            left[number] -= 1
            if left[number] == 0:
                ends[number] = now
        running = [number for number in running if left[number]]
    return [ends[number] for number in range(len(todo))]


def ends_of(device: PoolDevice, arrivals: list[tuple[float, list[int]]], pauses: list[tuple[float, float]]) -> list[float]:
    """The same of the engine, looked at when it asks for it."""
    engine = SimulatedEngine(device)
    found: dict[tuple[int, int], float] = {}
    inputs = sorted([(time_s, 0, number) for number, (time_s, _) in enumerate(arrivals)] + [(t, 1, 0) for t, _ in pauses])
    pause_s = dict(pauses)

    def note(ended: list) -> None:
        found.update({(rollout.group.ticket.ordinal, rollout.index): rollout.ended_s for rollout in ended})

    while inputs or engine.works:
        if inputs and inputs[0][0] <= engine.next_look_s():
            time_s, kind, number = inputs.pop(0)
            if kind == 0:
                lengths = arrivals[number][1]
                note(engine.add(group(number, len(lengths)), lengths, time_s))
            else:
                note(engine.load_weights(1, pause_s[time_s], clear_kv=False, now=time_s))
        else:
            note(engine.advance(engine.next_look_s()))
    return [found[number, index] for number, (_, lengths) in enumerate(arrivals) for index in range(len(lengths))]


@pytest.mark.parametrize("seed", range(20))
def test_the_engine_ends_rollouts_when_a_token_by_token_one_does(seed: int) -> None:
    rng = random.Random(seed)
    device = PoolDevice(
        capacity=64,
        max_running=rng.choice((0, 5)),
        step_base_s=0.02,
        step_per_rollout_s=rng.choice((0.0, 0.003)),
        compute_per_rollout_s=rng.choice((0.0, 0.004)),
    )
    times = sorted(rng.uniform(0, 30) for _ in range(8))
    arrivals = [(time_s, [rng.randint(1, 900) for _ in range(4)]) for time_s in times]
    pauses = [(rng.uniform(0, 40), 1.5)]
    # steps are real numbers in the engine: an arrival in the middle of a step does not wait for its end
    tolerance_s = device.step_s(16) * (len(arrivals) + 2)
    assert ends_of(device, arrivals, pauses) == pytest.approx(naive_ends(device, arrivals, pauses), abs=tolerance_s)


def test_an_engine_that_is_looked_at_often_ends_rollouts_at_the_same_times() -> None:
    rng = random.Random(7)
    device = PoolDevice(capacity=64, step_base_s=0.02, step_per_rollout_s=0.001, step_per_kv_token_s=1e-6, kv_tokens=5000)
    seldom, often = SimulatedEngine(device), SimulatedEngine(device)
    lengths = {number: [rng.randint(100, 900) for _ in range(8)] for number in range(4)}
    ends: list[dict[tuple[int, int], float]] = [{}, {}]
    for engine, found in zip((seldom, often), ends, strict=True):
        now = 0.0
        for number, those in lengths.items():
            engine.add(group(number, 8), those, now)
        while engine.works:
            now = min(engine.next_look_s(), now + 0.37) if engine is often else engine.next_look_s()
            found.update({(each.group.ticket.ordinal, each.index): each.ended_s for each in engine.advance(now)})
    assert seldom.totals.preemptions > 0
    assert ends[0] == pytest.approx(ends[1])
    assert seldom.totals.tokens == pytest.approx(sum(map(sum, lengths.values()))), (
        "a rollout that is preempted keeps its tokens"
    )


def test_a_full_cache_preempts_the_newest_rollout() -> None:
    # prompts of 10, rollouts of 100: the cache holds the first alone to its end, and half of the second
    device = PoolDevice(capacity=8, step_base_s=1.0, kv_tokens=160, prefill_s_per_token=0.01)
    engine = SimulatedEngine(device)
    engine.add(group(0, 1), [100], 0.0)
    engine.add(group(1, 1), [100], 0.0)
    # 2 x 0.1 s of prompts, then 70 steps of both: 2 x (10 + 70) tokens
    assert engine.next_look_s() == pytest.approx(70.2)
    assert engine.advance(70.2) == []
    assert (engine.num_running, engine.num_waiting, engine.totals.preemptions) == (1, 1, 1)
    # 30 more steps of the first, then the second computes its 80 tokens again
    assert engine.next_look_s() == pytest.approx(100.2)
    assert [rollout.group.ticket.ordinal for rollout in engine.advance(100.2)] == [0]
    assert engine.next_look_s() == pytest.approx(100.2 + 0.8 + 30)


def test_spans_name_the_version_that_sampled_each_token() -> None:
    engine = SimulatedEngine(PoolDevice(capacity=8, step_base_s=0.1))
    engine.load_weights(3, 0.0, clear_kv=True, now=0.0)
    engine.add(group(0, 1), [100], 0.0)
    engine.load_weights(4, 2.0, clear_kv=True, now=4.0)
    engine.load_weights(6, 0.0, clear_kv=True, now=8.0)
    (rollout,) = engine.advance(engine.next_look_s())
    # 4 s, then 4 s of which 2 paused, then the rest
    assert [version for version, _ in rollout.pieces] == [3, 4, 6]
    assert [tokens for _, tokens in rollout.pieces] == pytest.approx([40, 20, 40])
    assert engine.totals.weights_s == pytest.approx(2.0)
