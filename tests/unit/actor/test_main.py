"""The actor's loop over the buffer's messages, with an engine that does nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prolong.actor.main import Actor
from prolong.actor.stats import ActorStats
from prolong.common.errors import RunStopped
from prolong.common.messages import GroupAck, GroupResult, Tickets
from prolong.common.types import Group, Prompt, Sampling, Ticket, TicketKind

SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=4)
PROMPT = Prompt(uid="u", domain="d", task="t", text="x", token_ids=b"\1\0\0\0", verifier="v")


def ticket(ordinal: int) -> Ticket:
    return Ticket(
        ordinal=ordinal, kind=TicketKind.train, prompt=PROMPT, sampling=SAMPLING, seed=1, generation=1, version=0, lease_s=60.0
    )


class Worker:
    """Ends a ticket when it is told to."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.two_begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def work(self, ticket: Ticket) -> Group:
        self.begun.append(ticket.ordinal)
        if len(self.begun) == 2:
            self.two_begun.set()
        await self.may_end.wait()
        return Group(
            ordinal=ticket.ordinal, kind=ticket.kind, generation=ticket.generation, prompt=ticket.prompt, setting="",
            sampling=ticket.sampling, rollouts=[None], actor="a", seconds=0.0,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip


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


async def scenario() -> None:
    wire, worker = Wire(), Worker()
    actor = Actor(wire, wire, None, worker, ActorStats(1.0), 1.0)  # type: ignore[arg-type]
    actor._generation = 1

    async def talk() -> None:
        for tickets in ([ticket(5)], [ticket(5), ticket(6)]):  # the second after a broken connection
            wire.fed.put_nowait(Tickets(tickets=tickets))
        await worker.two_begun.wait()
        worker.may_end.set()
        sent = [await wire.sent.get() for _ in range(2)]
        assert {message.group.ordinal for message in sent if isinstance(message, GroupResult)} == {5, 6}
        wire.fed.put_nowait(Tickets(tickets=[ticket(5)]))  # its group is under way: the client sends it again
        wire.fed.put_nowait(GroupAck(ordinal=5, accepted=False))
        wire.fed.put_nowait(Tickets(tickets=[ticket(5), ticket(6)]))  # of a buffer that knows nothing of the first
        assert (await wire.sent.get()).group.ordinal == 5
        wire.fed.put_nowait(RunStopped("over"))

    _, ended = await asyncio.gather(talk(), actor.run(60.0), return_exceptions=True)
    assert isinstance(ended, BaseExceptionGroup)
    assert ended.subgroup(RunStopped) is not None
    assert worker.begun == [5, 6, 5]


@pytest.mark.timeout(20)
def test_a_ticket_that_is_sent_again_after_a_broken_connection_is_worked_on_once():
    asyncio.run(scenario())
