"""The actor's loop over the buffer's messages, with an engine that does nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prolong.actor.main import Actor
from prolong.actor.stats import ActorStats
from prolong.common.errors import ProlongError, RunStopped
from prolong.common.messages import GroupAck, GroupResult, TicketReturned, Tickets
from prolong.common.types import Group, Prompt, Sampling, Ticket, TicketKind

SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=4)
PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"\1\0\0\0", verifier="v")


def ticket(ordinal: int) -> Ticket:
    return Ticket(
        ordinal=ordinal, kind=TicketKind.train, prompt=PROMPT, sampling=SAMPLING, seed=1, generation=1, version=0, lease_s=60.0
    )


class Worker:
    """Ends a ticket when it is told to, or fails it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.two_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    async def work(self, ticket: Ticket) -> Group:
        self.begun.append(ticket.ordinal)
        if len(self.begun) == 2:
            self.two_begun.set()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        return Group.for_ticket(ticket, [None], actor="a", seconds=0.0)  # pyright: ignore[reportArgumentType]


class Wire:
    """Client and inbox at once: what is fed is heard, what is sent is kept."""

    def __init__(self) -> None:
        self.fed: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()

    async def take_async(self, timeout_s: float) -> Any:
        message = await self.fed.get()
        if isinstance(message, Exception):
            raise message
        return message

    def send(self, message: Any) -> None:
        self.sent.put_nowait(message)

    def set_stats(self, stats: dict[str, float]) -> None:
        pass

    def give(self, *ordinals: int) -> None:
        self.fed.put_nowait(Tickets(tickets=[ticket(ordinal) for ordinal in ordinals]))

    async def next_sent(self, num: int) -> list[str | tuple[str, int]]:
        """The next messages: their kind, and the ticket they are about."""
        return [_described(await self.sent.get()) for _ in range(num)]


def _described(message: Any) -> str | tuple[str, int]:
    kind = type(message).__name__
    if isinstance(message, GroupResult):
        return kind, message.group.ordinal
    return (kind, message.ordinal) if isinstance(message, TicketReturned) else kind


class Case:
    """An actor with weights of generation 1, two tickets in flight, and what a test does meanwhile."""

    def __init__(self, leave_s: float = 60.0) -> None:
        self.wire, self.worker = Wire(), Worker()
        self.actor = Actor(self.wire, self.wire, None, self.worker, ActorStats(1.0), weights_s=1.0, leave_s=leave_s)  # type: ignore[arg-type]
        self.actor._generation = 1

    async def run(self, story: Callable[[Case], Coroutine[Any, Any, None]]) -> BaseException | None:
        """What the actor ended with, once the story is told."""

        async def tell() -> None:
            self.wire.give(5, 6)
            await self.worker.two_begun.wait()
            await story(self)

        told, ended = await asyncio.gather(tell(), self.actor.run(60.0), return_exceptions=True)
        assert told is None, told
        return ended


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def a_broken_connection(case: Case) -> None:
    case.wire.give(5, 6)
    case.worker.may_end.set()
    assert set(await case.wire.next_sent(2)) == {("GroupResult", 5), ("GroupResult", 6)}
    case.wire.give(5)  # its group is under way: the client sends it again
    case.wire.fed.put_nowait(GroupAck(ordinal=5, accepted=False))
    case.wire.give(5, 6)  # of a buffer that knows nothing of the first
    assert await case.wire.next_sent(1) == [("GroupResult", 5)]
    case.wire.fed.put_nowait(RunStopped("over"))


@pytest.mark.timeout(20)
def test_a_ticket_that_is_sent_again_after_a_broken_connection_is_worked_on_once():
    case = Case()
    ended = asyncio.run(case.run(a_broken_connection))
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(RunStopped) is not None
    assert case.worker.begun == [5, 6, 5]


async def sigterm_with_time(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    case.wire.give(5, 6, 7)  # 7 crossed Leave; the others are in flight
    assert await case.wire.next_sent(2) == ["Leave", ("TicketReturned", 7)]
    case.worker.may_end.set()
    assert set(await case.wire.next_sent(2)) == {("GroupResult", 5), ("GroupResult", 6)}


@pytest.mark.timeout(20)
def test_after_sigterm_what_is_in_flight_ends_and_what_comes_goes_back_at_once():
    case = Case()
    assert asyncio.run(case.run(sigterm_with_time)) is None
    assert case.worker.begun == [5, 6]
    assert case.wire.sent.empty()


async def sigterm_without_time(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(2) == ["Leave", "Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


@pytest.mark.timeout(20)
def test_what_did_not_end_within_the_grace_period_is_handed_back():
    assert asyncio.run(Case(leave_s=0.1).run(sigterm_without_time)) is None


async def two_sigterms(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert case.wire.sent.empty()
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


@pytest.mark.timeout(20)
def test_another_sigterm_ends_the_grace_period():
    assert asyncio.run(Case().run(two_sigterms)) is None


async def a_failure(case: Case) -> None:
    case.worker.failure = ProlongError("the engine died")
    case.worker.may_end.set()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


async def sigterm_and_a_failure(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    await a_failure(case)


@pytest.mark.timeout(20)
def test_an_actor_that_fails_hands_everything_back_and_says_so_first():
    ended = asyncio.run(Case().run(a_failure))
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(ProlongError) is not None


@pytest.mark.timeout(20)
def test_a_failure_within_the_grace_period_is_a_good_end():
    assert asyncio.run(Case().run(sigterm_and_a_failure)) is None
