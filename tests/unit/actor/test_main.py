"""The actor's loop over the buffer's messages, with an engine that generates nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self

import pytest
from prolong.actor import main as actor_main
from prolong.actor.engines.completion import Completion
from prolong.actor.engines.load import EngineLoad
from prolong.actor.in_flight import InFlightCap
from prolong.actor.main import Actor, ActorInput, main
from prolong.actor.stats import ActorStats
from prolong.actor.updates import WeightUpdates
from prolong.common.config.sections import ActorConfig, Config, ModelConfig
from prolong.common.errors import ProlongError, RunStopped, WeightsError, WireSizeError
from prolong.common.messages import (
    FromClient,
    GroupAck,
    GroupResult,
    TicketHandedOver,
    TicketReturned,
    Tickets,
    UpdateWeights,
    WeightReaders,
    WeightsApplied,
)
from prolong.common.types import (
    FinishReason,
    Group,
    Manifest,
    Prompt,
    Rendezvous,
    Rollout,
    Sampling,
    StartedRollout,
    Ticket,
    TicketKind,
    Verdict,
    VerdictStatus,
    VersionSpan,
)

from tests.support.scripted_pulls import ScriptedPulls, pulled_update

SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=4)
PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"\1\0\0\0", verifier="v")
ROLLOUT = Rollout(
    token_ids=b"\1\0\0\0",
    behaviour_logprobs=b"\0\0\0\0",
    spans=[VersionSpan(version=0, start=0, end=1)],
    finish_reason=FinishReason.stop,
    verdict=Verdict(reward=1.0, status=VerdictStatus.ok, verifier="v", seconds=0.0),
)


STARTED = StartedRollout(
    index=1, token_ids=b"\1\0\0\0", behaviour_logprobs=b"\0\0\0\0", spans=[VersionSpan(version=0, start=0, end=1, actor="a")]
)


def ticket(ordinal: int) -> Ticket:
    return Ticket(
        ordinal=ordinal, kind=TicketKind.train, prompt=PROMPT, sampling=SAMPLING, seed=1, generation=1, version=0, lease_s=60.0
    )


class Engine:
    """Takes weights and does nothing else. `arrives` decides whether an update does."""

    def __init__(self) -> None:
        self.version, self.paused_s, self.num_unfinished = -1, 0.0, 0
        self.load = EngineLoad()
        self.superseded: asyncio.Queue[None] = asyncio.Queue()
        self.asked: list[int] = []  # versions
        self.begun: asyncio.Queue[int] = asyncio.Queue()  # versions, as they are asked for
        self.arrives: Callable[[UpdateWeights], Awaitable[None]] | None = None

    @classmethod
    async def start(cls, model: ModelConfig, actor: ActorConfig, seed: int, stop_ids: Sequence[int]) -> Self:
        return cls()

    async def generate(self, ticket: Ticket) -> AsyncIterator[tuple[int, Completion]]:
        raise AssertionError("the worker of these tests generates nothing")
        yield

    async def apply_weights(self, update: UpdateWeights, timeout_s: float) -> list[int]:
        self.asked.append(update.version)
        self.begun.put_nowait(update.version)
        if self.arrives is not None:
            await self.arrives(update)
        self.version = update.version
        return [7]

    async def interrupt(self) -> None:
        raise AssertionError("the worker of these tests has nothing to interrupt in it")

    def supersede(self) -> None:
        self.superseded.put_nowait(None)

    async def close(self) -> None: ...


class Worker:
    """Ends its tickets when it is told to, or fails them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.two_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None
        self.interrupted = self.hangs = False

    async def interrupt(self) -> None:
        self.interrupted = True
        if not self.hangs:
            self.may_end.set()

    async def work(self, ticket: Ticket) -> Group | list[StartedRollout]:
        self.begun.append(ticket.ordinal)
        if len(self.begun) == 2:
            self.two_begun.set()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        if self.interrupted:
            return [STARTED]
        return Group.for_ticket(ticket, [ROLLOUT], actor="a", seconds=0.0)


class Wire:
    """Client and inbox at once: what is fed is received, what is sent is kept."""

    def __init__(self) -> None:
        self.fed: asyncio.Queue[ActorInput | Exception] = asyncio.Queue()
        self.sent: asyncio.Queue[FromClient] = asyncio.Queue()
        self.room: int | None = None
        self.too_large: set[int] = set()  # tickets whose handover would not fit into a message

    async def take_async(self, timeout_s: float) -> ActorInput:
        message = await self.fed.get()
        if isinstance(message, Exception):
            raise message
        return message

    def send(self, message: FromClient) -> None:
        if isinstance(message, TicketHandedOver) and message.ordinal in self.too_large:
            raise WireSizeError("TicketHandedOver of many bytes")
        self.sent.put_nowait(message)

    def set_stats(self, stats: dict[str, float], room: int | None = None) -> None:
        self.room = room

    def give(self, *ordinals: int) -> None:
        self.fed.put_nowait(Tickets(tickets=[ticket(ordinal) for ordinal in ordinals]))

    def offer(self, version: int) -> None:
        self.fed.put_nowait(
            UpdateWeights(
                generation=1,
                version=version,
                epoch=1,
                member=0,
                num_members=1,
                rendezvous=Rendezvous(transport="collective", address=b""),
                manifest=Manifest(buckets=[]),
            )
        )

    async def applied(self) -> WeightsApplied:
        message = await self.sent.get()
        assert isinstance(message, WeightsApplied)
        return message

    async def next_sent(self, num: int) -> list[str | tuple[str, int]]:
        """The next messages: their kind, and the ticket they are about."""
        return [_described(await self.sent.get()) for _ in range(num)]


def _described(message: FromClient) -> str | tuple[str, int]:
    kind = type(message).__name__
    if isinstance(message, GroupResult):
        return kind, message.group.ordinal
    return (kind, message.ordinal) if isinstance(message, TicketReturned | TicketHandedOver) else kind


class Case:
    """An actor with weights of generation 1, two tickets in flight, and what a test does meanwhile."""

    def __init__(self, leave_within_s: float = 60.0, hand_over_within_s: float = 0.0) -> None:
        self.wire, self.engine, self.worker = Wire(), Engine(), Worker()
        stats = ActorStats(1.0)
        self.pulls = ScriptedPulls()
        updates = WeightUpdates(self.engine, self.pulls, stats, self.wire.send, timeout_s=1.0)
        self.actor = Actor(
            self.wire,
            self.wire,
            updates,
            self.worker,
            stats,
            InFlightCap(16),
            leave_within_s=leave_within_s,
            hand_over_within_s=hand_over_within_s,
        )

    async def run(self, story: Callable[[Case], Awaitable[None]]) -> BaseException | None:
        """Run the actor and the story; returns the error that the actor ended with, None for a good end."""

        async def tell() -> None:
            self.wire.offer(0)
            assert (await self.wire.applied()).checksums == [7]
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


@pytest.mark.timeout(120)
def test_a_ticket_that_is_sent_again_after_a_broken_connection_is_worked_on_once():
    case = Case()
    ended = asyncio.run(case.run(a_broken_connection))
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(RunStopped) is not None
    assert case.worker.begun == [5, 6, 5]
    assert case.wire.room == 16  # of its heartbeats


async def sigterm_with_time(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    case.wire.give(5, 6, 7)  # 7 crossed Leave; the others are in flight
    assert await case.wire.next_sent(2) == ["Leave", ("TicketReturned", 7)]
    case.worker.may_end.set()
    assert set(await case.wire.next_sent(2)) == {("GroupResult", 5), ("GroupResult", 6)}


@pytest.mark.timeout(120)
def test_after_sigterm_what_is_in_flight_ends_and_what_comes_goes_back_at_once():
    case = Case()
    assert asyncio.run(case.run(sigterm_with_time)) is None
    assert case.worker.begun == [5, 6]
    assert case.wire.sent.empty()


async def sigterm_without_time(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(2) == ["Leave", "Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


@pytest.mark.timeout(120)
def test_what_did_not_end_within_the_grace_period_is_handed_back():
    assert asyncio.run(Case(leave_within_s=0.1).run(sigterm_without_time)) is None


async def two_sigterms(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert case.wire.sent.empty()
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


@pytest.mark.timeout(120)
def test_another_sigterm_ends_the_grace_period():
    assert asyncio.run(Case().run(two_sigterms)) is None


async def handed_over_at_the_end(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    case.wire.give(7)  # it crossed Leave
    assert await case.wire.next_sent(2) == ["Leave", ("TicketHandedOver", 7)]
    sigterm()
    case.wire.too_large.add(6)
    messages = [await case.wire.sent.get() for _ in range(2)]
    assert {_described(message) for message in messages} == {("TicketHandedOver", 5), ("TicketReturned", 6)}
    assert [message.started for message in messages if isinstance(message, TicketHandedOver)] == [[STARTED]]


@pytest.mark.timeout(120)
def test_what_did_not_end_is_handed_over_and_what_is_too_large_for_a_message_goes_back():
    case = Case(hand_over_within_s=60.0)
    assert asyncio.run(case.run(handed_over_at_the_end)) is None
    assert case.wire.sent.empty()


async def an_engine_that_hangs(case: Case) -> None:
    case.worker.hangs = True
    await sigterm_without_time(case)


@pytest.mark.timeout(120)
def test_what_cannot_be_interrupted_in_time_goes_back_without_tokens():
    case = Case(leave_within_s=0.05, hand_over_within_s=0.05)
    assert asyncio.run(case.run(an_engine_that_hangs)) is None
    assert case.worker.interrupted


async def sigterm_and_groups_in_time(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    case.worker.may_end.set()
    assert set(await case.wire.next_sent(2)) == {("GroupResult", 5), ("GroupResult", 6)}


@pytest.mark.timeout(120)
def test_nothing_is_interrupted_when_all_groups_end_within_the_grace_period():
    case = Case(hand_over_within_s=60.0)
    assert asyncio.run(case.run(sigterm_and_groups_in_time)) is None
    assert not case.worker.interrupted


async def a_failure(case: Case) -> None:
    case.worker.failure = ProlongError("the engine died")
    case.worker.may_end.set()
    assert await case.wire.next_sent(1) == ["Leave"]
    assert set(await case.wire.next_sent(2)) == {("TicketReturned", 5), ("TicketReturned", 6)}


async def sigterm_and_a_failure(case: Case) -> None:
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    await a_failure(case)


@pytest.mark.timeout(120)
def test_an_actor_that_fails_hands_everything_back_and_says_so_first():
    ended = asyncio.run(Case().run(a_failure))
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(ProlongError) is not None


@pytest.mark.timeout(120)
def test_a_failure_within_the_grace_period_is_a_good_end():
    assert asyncio.run(Case().run(sigterm_and_a_failure)) is None


async def sigterm_in_a_pull(case: Case) -> None:
    case.wire.fed.put_nowait(pulled_update(1))
    assert await case.pulls.asked.get() == 1
    sigterm()
    assert await case.wire.next_sent(1) == ["Leave"]
    case.worker.may_end.set()
    assert set(await case.wire.next_sent(2)) == {("GroupResult", 5), ("GroupResult", 6)}


@pytest.mark.timeout(120)
def test_an_actor_that_leaves_does_not_wait_for_a_pull():
    """Nobody depends on it, unlike the members of a broadcast."""
    case = Case()
    assert asyncio.run(case.run(sigterm_in_a_pull)) is None
    assert case.pulls.num_cancelled == 1


async def readers_come(case: Case) -> None:
    case.wire.fed.put_nowait(WeightReaders(num_pullers=1, keys=["k"]))
    case.wire.fed.put_nowait(RunStopped("over"))


@pytest.mark.timeout(120)
def test_those_who_may_pull_from_this_actor_are_passed_on():
    case = Case()
    asyncio.run(case.run(readers_come))
    assert [readers.keys for readers in case.pulls.readers] == [["k"]]


async def updates_one_after_the_other(case: Case) -> None:
    first_may_fail = asyncio.Event()

    async def superseded(update: UpdateWeights) -> None:
        if update.version == 1:
            await first_may_fail.wait()
            raise WeightsError("superseded")

    case.engine.arrives = superseded
    case.wire.offer(1)
    while await case.engine.begun.get() != 1:
        pass
    case.wire.offer(2)
    case.wire.offer(3)
    # versions 0 to 3 each superseded what came before
    for _ in range(4):
        await case.engine.superseded.get()
    first_may_fail.set()
    failed, applied = await case.wire.applied(), await case.wire.applied()
    assert (failed.version, failed.error, failed.checksums) == (1, "superseded", [])
    assert (applied.version, applied.error, applied.checksums) == (3, "", [7])
    case.wire.fed.put_nowait(RunStopped("over"))


@pytest.mark.timeout(120)
def test_the_newest_weights_are_applied_and_a_download_that_failed_is_reported():
    case = Case()
    ended = asyncio.run(case.run(updates_one_after_the_other))
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(RunStopped) is not None
    assert case.engine.asked == [0, 1, 3]


@pytest.mark.timeout(120)
def test_an_actor_that_can_serve_its_weights_to_nobody_any_more_ends():
    case = Case()
    case.pulls.has_failed = True
    with pytest.raises(BaseExceptionGroup) as ended:
        asyncio.run(case.actor.run(60.0))
    assert ended.value.subgroup(ProlongError) is not None


def test_a_second_sigterm_that_comes_when_all_is_done_does_not_end_the_process_as_a_failure(monkeypatch: pytest.MonkeyPatch):
    async def work(*_: object, **__: object) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)

    monkeypatch.setattr(actor_main, "_run", work)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(Config(), "a") == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
