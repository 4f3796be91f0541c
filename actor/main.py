"""The actor process: tickets and weights in, scored groups out.

buffer --Tickets--> rollout.py (a task a ticket) --GroupResult--> buffer
buffer --UpdateWeights--> engine (one at a time, the newest first) --WeightsApplied--> buffer
SIGTERM --Leave--> buffer; groups that end in time still go there, all other tickets go back
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Collection
from time import perf_counter

from ..buffer.client.client import BufferClient, Inbox
from ..common.config.sections import Config
from ..common.errors import DeadlineExceeded, WeightsError
from ..common.messages import (
    PROTOCOL_VERSION,
    GroupAck,
    GroupResult,
    Hello,
    Leave,
    Role,
    TicketReturned,
    Tickets,
    UpdateWeights,
    WeightsApplied,
)
from ..common.tokenizer import Tokenizer
from ..common.types import Ticket
from ..verifiers.workers.pool import make_pool
from .engines.api import Engine
from .engines.registry import engine_class
from .rollouts import RolloutWorker
from .stats import ActorStats

CONNECT_S = 120.0  # patience for a buffer that starts later than we do
QUIET_S = 60.0  # without a message for longer we merely look again: the inbox itself notices a dead buffer
FLUSH_SHARE = 0.2  # of the grace period: kept for the last messages and their acknowledgements

log = logging.getLogger(__name__)


def main(cfg: Config, name: str) -> None:
    """Run until the buffer says Stop (RunStopped), SIGTERM, or an error. Raises ProlongError subclasses.

    After SIGTERM the process ends with exit code 0, within `actor.grace_s` and a second for the end of the engine.
    """
    signal.signal(signal.SIGTERM, _exit)  # while the engine starts; later the event loop has it
    try:
        asyncio.run(_run(cfg, name))
    except BaseExceptionGroup as group:
        raise _first(group) from None
    logging.shutdown()
    os._exit(0)  # everything is closed, and Python would need seconds to take vLLM and torch apart


async def _run(cfg: Config, name: str) -> None:
    tokenizer = Tokenizer.load(cfg.model.path)
    engine = await engine_class(cfg.actor.engine).start(cfg.model, cfg.actor, cfg.run.seed, tokenizer.eos_ids)
    # no Hello before this: whoever is in takes part in every broadcast, and one that is not ready would hold up the others
    to, limit = cfg.buffer.address, cfg.buffer.max_message_mb << 20
    client = BufferClient(to, _hello(cfg, name, tokenizer), max_bytes=limit, keys=cfg.buffer.keys)
    inbox = client.inbox(Tickets, UpdateWeights, GroupAck)
    pool = make_pool(cfg.verifiers)
    flush_s = FLUSH_SHARE * cfg.actor.grace_s
    try:
        await pool.start()
        await pool.usable()
        welcome = await asyncio.to_thread(client.connect, CONNECT_S)
        stats = ActorStats(cfg.verifiers.max_none_rate)
        worker = RolloutWorker(engine, tokenizer, pool, stats, name)
        limits = {"weights_s": cfg.weights.timeout_s, "leave_s": cfg.actor.grace_s - flush_s}
        await Actor(client, inbox, engine, worker, stats, **limits).run(welcome.heartbeat_s)
    finally:
        client.close(flush_s)
        await pool.close()
        await engine.close()


class Actor:
    """The loop over the buffer's messages, with its tasks: one per ticket, at most one for weights, one for statistics, and one
    that waits for SIGTERM."""

    def __init__(
        self,
        client: BufferClient,
        inbox: Inbox[Tickets | UpdateWeights | GroupAck],
        engine: Engine,
        worker: RolloutWorker,
        stats: ActorStats,
        *,
        weights_s: float,
        leave_s: float,
    ) -> None:
        """`weights_s`: deadline of an update. `leave_s`: after SIGTERM, what is in flight has this long to end."""
        self._client, self._inbox, self._engine, self._worker, self._stats = client, inbox, engine, worker, stats
        self._weights_s, self._leave_s = weights_s, leave_s
        self._generation = -1  # of the weights that the engine holds
        self._working: dict[tuple[int, int], Ticket] = {}  # by generation and ordinal
        self._unacknowledged: set[tuple[int, int]] = set()  # tickets whose group was sent; the client sends it again if it must
        self._update: UpdateWeights | None = None  # the newest that is not being applied yet
        self._applying: asyncio.Task[None] | None = None
        self._told = asyncio.Event()  # to leave: SIGTERM
        self._over = asyncio.Event()  # nothing is in flight any more, or another SIGTERM came

    async def run(self, heartbeat_s: float) -> None:
        """Consumes: Tickets, UpdateWeights, GroupAck. Blocks on: the inbox. Unblocked by: a message, Stop, a dead buffer,
        a task that failed, or the end of the grace period. Stops when: any of the last four; tickets in flight are handed back.
        SIGTERM begins the grace period, another ends it; what fails in it only ends it sooner."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_sigterm)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(heartbeat_s))
                tasks.create_task(self._leave_in_time())
                while True:
                    message = await self._next_message()
                    if isinstance(message, UpdateWeights):
                        self._update = message
                        self._engine.supersede()
                        if self._applying is None:
                            self._applying = tasks.create_task(self._apply())
                    elif isinstance(message, GroupAck):
                        self._unacknowledged = {key for key in self._unacknowledged if key[1] != message.ordinal}
                    elif self._told.is_set():
                        self._hand_back(list(filter(self._is_new, message.tickets)))
                    else:
                        for ticket in filter(self._is_new, message.tickets):
                            self._working[_key(ticket)] = ticket
                            tasks.create_task(self._work(ticket))
        except BaseExceptionGroup as group:
            if not self._told.is_set():
                raise
            log.info("left: %r", _first(group))
        finally:
            self._hand_back(self._working.values())

    def _on_sigterm(self) -> None:
        (self._over if self._told.is_set() else self._told).set()

    async def _leave_in_time(self) -> None:
        """Once told to leave: no new tickets, and the end when nothing is in flight, `leave_s` later at most."""
        await self._told.wait()
        log.info("SIGTERM: %d tickets in flight have %.1f s to end", len(self._working), self._leave_s)
        self._client.send(Leave(reason="SIGTERM"))
        self._check_over()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._leave_s):
                await self._over.wait()
        raise _Left(f"{len(self._working)} tickets are handed back")

    def _check_over(self) -> None:
        """An update under way counts as work: the other members of the broadcast would lose it with this one."""
        if self._told.is_set() and not self._working and self._applying is None:
            self._over.set()

    def _hand_back(self, tickets: Collection[Ticket]) -> None:
        """After Leave, so that the buffer does not give them to this actor again. It hears Leave with every lot: it may have
        forgotten the first in a restart."""
        if tickets:
            self._client.send(Leave(reason="SIGTERM" if self._told.is_set() else "the actor ends"))
        for ticket in tickets:
            self._give_back(ticket, "the actor leaves")

    async def _next_message(self) -> Tickets | UpdateWeights | GroupAck:
        while True:
            try:
                return await self._inbox.take_async(QUIET_S)
            except DeadlineExceeded:
                continue

    def _is_new(self, ticket: Ticket) -> bool:
        """After a broken connection the buffer sends again whatever it counts as ours."""
        return _key(ticket) not in self._working and _key(ticket) not in self._unacknowledged

    async def _work(self, ticket: Ticket) -> None:
        if ticket.generation != self._generation:
            self._give_back(ticket, f"of generation {ticket.generation}, this actor's weights are of {self._generation}")
        else:
            group = await self._worker.work(ticket)
            if group.rollouts:
                self._unacknowledged.add(_key(ticket))
                self._client.send(GroupResult(group=group))
            else:
                self._give_back(ticket, f"none of its {group.dropped_rollouts} rollouts got a verdict")
        del self._working[_key(ticket)]
        self._check_over()

    def _give_back(self, ticket: Ticket, reason: str) -> None:
        self._stats.counts["returned_tickets"] += 1
        self._client.send(TicketReturned(ordinal=ticket.ordinal, reason=reason))

    async def _apply(self) -> None:
        """Apply the newest weights offered, and whatever is offered meanwhile. A failed update is reported, not raised."""
        while self._update is not None:
            update, self._update = self._update, None
            start, paused = perf_counter(), self._engine.paused_s
            checksums, error = [], ""
            try:
                checksums = await self._engine.apply_weights(update, self._weights_s)
                self._generation = update.generation
                self._stats.counts["weight_updates"] += 1
            except WeightsError as failure:
                error = str(failure)
                self._stats.counts["failed_updates"] += 1
                log.warning("version %d was not applied: %s", update.version, error)
            self._stats.paused(self._engine.paused_s - paused)
            self._client.send(
                WeightsApplied(
                    generation=update.generation,
                    version=update.version,
                    epoch=update.epoch,
                    checksums=checksums,
                    seconds=perf_counter() - start,
                    error=error,
                )
            )
        self._applying = None
        self._check_over()

    async def _report(self, every_s: float) -> None:
        while True:
            self._client.set_stats(self._stats.snapshot())
            await asyncio.sleep(every_s)


def _key(ticket: Ticket) -> tuple[int, int]:
    return ticket.generation, ticket.ordinal


def _hello(cfg: Config, name: str, tokenizer: Tokenizer) -> Hello:
    return Hello(
        role=Role.actor,
        name=name,
        protocol=PROTOCOL_VERSION,
        tokenizer=tokenizer.fingerprint,
        host=socket.gethostname(),
        pid=os.getpid(),
        capacity=cfg.actor.capacity,
    )


class _Left(Exception):
    """The end that SIGTERM asked for."""


def _exit(*_: object) -> None:
    raise SystemExit(0)


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error of a group, however deep: the others followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
