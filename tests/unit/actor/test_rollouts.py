"""Tickets that become groups, or started rollouts after an interruption; and the text that the verifier reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from prolong.actor.engines.completion import Completion, version_spans
from prolong.actor.rollouts import RolloutWorker, answer_ids
from prolong.actor.stats import ActorStats
from prolong.common.types import (
    FinishReason,
    Group,
    Prompt,
    Sampling,
    StartedRollout,
    Ticket,
    TicketKind,
    Verdict,
    VerdictStatus,
    VersionSpan,
    int32_array,
)

PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=bytes(4), verifier="v")
TICKET = Ticket(
    ordinal=3,
    kind=TicketKind.train,
    prompt=PROMPT,
    sampling=Sampling(n=4, temperature=1.0, top_p=1.0, max_tokens=8),
    seed=0,
    generation=1,
    version=5,
    lease_s=60.0,
)


class Engine:
    """Rollout i is the tokens 10 i, 10 i + 1, ...; one ends with its fourth token, when `ends` says so or never."""

    def __init__(self, version: int, *, ends: set[int], partial: int = 2) -> None:
        """`partial`: tokens that those that do not end have when they are interrupted."""
        self.version, self.ends, self.partial = version, ends, partial
        self.interrupted = asyncio.Event()

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        unfinished = ticket.unfinished()
        for index in sorted(set(unfinished) & self.ends):
            yield index, self.made(index, len(unfinished[index]) // 4, 4, FinishReason.stop)
        if set(unfinished) - self.ends:
            await self.interrupted.wait()
        for index in sorted(set(unfinished) - self.ends):
            have = len(unfinished[index]) // 4
            yield index, self.made(index, have, max(have, self.partial), FinishReason.abort)

    def made(self, index: int, have: int, end: int, reason: FinishReason) -> Completion:
        ids = np.arange(10 * index + have, 10 * index + end, dtype="<i4")
        spans = version_spans([(self.version, 0)], len(ids))
        return Completion(
            token_ids=ids.tobytes(), behaviour_logprobs=(-ids.astype("<f4")).tobytes(), spans=spans, finish_reason=reason
        )

    async def interrupt(self) -> None:
        self.interrupted.set()


class Judge:
    """Knows the completions of some rollouts only: verdicts on others never come. `judged` tells of each one asked for."""

    def __init__(self, known: set[int]) -> None:
        self.known = known
        self.asked: list[list[int]] = []
        self.first = asyncio.Event()

    async def verify(self, prompt: Prompt, text: str, reason: FinishReason, token_ids: bytes) -> Verdict:
        ids = int32_array(token_ids).tolist()
        self.asked.append(ids)
        index = ids[0] // 10
        if index not in self.known:
            self.first.set()
            await asyncio.Event().wait()
        reward = None if index == 3 else float(index)
        return Verdict(reward=reward, status=VerdictStatus.ok, verifier="v", seconds=0.0)


class Words:
    eos_ids = (999,)

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Bench:
    """A worker over these; `stats` are its own."""

    def __init__(self, name: str, engine: Engine, judge: Judge) -> None:
        self.engine, self.judge, self.stats = engine, judge, ActorStats(1.0)
        self.worker = RolloutWorker(cast("Any", engine), cast("Any", Words()), cast("Any", judge), self.stats, name)


def work(bench: Callable[[], Bench], ticket: Ticket, *, interrupt: bool) -> tuple[Group | list[StartedRollout], Bench]:
    async def run() -> tuple[Group | list[StartedRollout], Bench]:
        made = bench()
        working = asyncio.create_task(made.worker.work(ticket))
        if interrupt:
            await made.judge.first.wait()
            await made.worker.interrupt()
        return await working, made

    return asyncio.run(asyncio.wait_for(run(), 100))


def first_actor() -> tuple[list[StartedRollout], Bench]:
    """Rollout 0 is judged, 1 has ended, 2 has two tokens, 3 has two."""
    started, bench = work(lambda: Bench("a", Engine(5, ends={0, 1}), Judge({0})), TICKET, interrupt=True)
    assert isinstance(started, list)
    return started, bench


@pytest.mark.timeout(120)
def test_an_interrupted_ticket_is_what_there_is_of_its_rollouts_and_says_who_sampled_it():
    started, bench = first_actor()
    ended = [rollout.finish_reason for rollout in started]
    assert ended == [FinishReason.stop, FinishReason.stop, None, None]
    assert [rollout.verdict is not None for rollout in started] == [True, False, False, False]
    assert [int32_array(rollout.token_ids).tolist() for rollout in started][2] == [20, 21]
    assert {span.actor for rollout in started for span in rollout.spans} == {"a"}
    assert (bench.stats.counts["generated_rollouts"], bench.stats.counts["generated_tokens"]) == (2, 12)
    assert bench.stats.snapshot()["in_flight"] == 0


@pytest.mark.timeout(120)
def test_another_actor_goes_on_and_the_group_is_what_one_actor_would_have_made_of_it():
    started, _ = first_actor()
    ticket = msgspec.structs.replace(TICKET, started=started)
    group, bench = work(lambda: Bench("b", Engine(6, ends={0, 1, 2, 3}), Judge({1, 2, 3})), ticket, interrupt=False)
    assert isinstance(group, Group)
    ids = [int32_array(rollout.token_ids).tolist() for rollout in group.rollouts]
    assert ids == [[10 * i + k for k in range(4)] for i in range(3)]
    assert [rollout.verdict.reward for rollout in group.rollouts] == [0.0, 1.0, 2.0]
    assert group.dropped_rollouts == 1, "there is no reward for the last one"
    behind = VersionSpan(version=6, start=2, end=4)
    assert group.rollouts[2].spans == [VersionSpan(version=5, start=0, end=2, actor="a"), behind]
    logprobs = np.frombuffer(group.rollouts[2].behaviour_logprobs, "<f4")
    assert (-logprobs).tolist() == ids[2]
    assert sorted(asked[0] // 10 for asked in bench.judge.asked) == [1, 2, 3], "the first has a verdict"
    assert bench.stats.counts["generated_tokens"] == 4, "its own alone"


@pytest.mark.timeout(120)
def test_a_ticket_that_is_interrupted_twice_keeps_what_both_sampled():
    started, _ = first_actor()
    ticket = msgspec.structs.replace(TICKET, started=started)
    again, _ = work(lambda: Bench("b", Engine(6, ends={2}, partial=3), Judge({1})), ticket, interrupt=True)
    assert isinstance(again, list)
    assert again[:1] == started[:1]
    assert [int32_array(rollout.token_ids).tolist() for rollout in again][3] == [30, 31, 32]
    assert [(span.version, span.actor, span.end) for span in again[3].spans] == [(5, "a", 2), (6, "b", 3)]
    assert [rollout.verdict is not None for rollout in again] == [True, True, False, False]


@pytest.mark.timeout(120)
def test_a_ticket_that_comes_after_the_interruption_is_passed_on_as_it_came():
    async def run() -> Any:
        bench = Bench("b", Engine(6, ends={0, 1, 2, 3}), Judge(set()))
        await bench.worker.interrupt()
        return await bench.worker.work(msgspec.structs.replace(TICKET, started=started))

    started, _ = first_actor()
    assert asyncio.run(run()) == started


@pytest.mark.timeout(120)
def test_rollouts_without_a_token_are_not_handed_over():
    started, _ = work(lambda: Bench("a", Engine(5, ends={0, 1}, partial=0), Judge({0})), TICKET, interrupt=True)
    assert isinstance(started, list)
    assert [rollout.index for rollout in started] == [0, 1]


def completion(ids: list[int], reason: FinishReason) -> Completion:
    return Completion(token_ids=np.array(ids, "<i4").tobytes(), behaviour_logprobs=b"", spans=[], finish_reason=reason)


def test_the_token_that_ended_a_rollout_is_not_shown_to_the_verifier():
    assert answer_ids(completion([5, 6, 1], FinishReason.stop), [1, 2]) == [5, 6]


def test_only_the_last_stop_token_of_a_finished_rollout_is_cut():
    assert answer_ids(completion([5, 1, 1], FinishReason.stop), [1]) == [5, 1]
    assert answer_ids(completion([5, 6, 1], FinishReason.length), [1]) == [5, 6, 1]
    assert answer_ids(completion([5, 6], FinishReason.stop), [1]) == [5, 6]
