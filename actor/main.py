"""The actor process: tickets and weights in, scored groups out.

buffer --Tickets--> rollout.py (a task a ticket) --GroupResult--> buffer
buffer --UpdateWeights--> engine (one at a time, the newest first) --WeightsApplied--> buffer
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from time import perf_counter

from ..buffer.client import BufferClient, Inbox
from ..common.config import Config
from ..common.errors import DeadlineExceeded, WeightsError
from ..common.messages import (
    PROTOCOL_VERSION,
    GroupAck,
    GroupResult,
    Hello,
    Role,
    TicketReturned,
    Tickets,
    UpdateWeights,
    WeightsApplied,
)
from ..common.tokenizer import Tokenizer
from ..common.types import Ticket
from ..verifiers.pool import VerifierPool
from .engine import Engine
from .rollout import RolloutWorker
from .stats import ActorStats

CONNECT_S = 120.0  # patience for a buffer that starts later than we do
QUIET_S = 60.0  # without a message for longer we merely look again: the inbox itself notices a dead buffer

log = logging.getLogger(__name__)


def main(cfg: Config, name: str) -> None:
    """Run until the buffer says Stop (RunStopped), SIGTERM, or an error. Raises ProlongError subclasses."""
    signal.signal(signal.SIGTERM, _leave)  # while the engine starts; later the event loop has it
    try:
        asyncio.run(_run(cfg, name))
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _run(cfg: Config, name: str) -> None:
    tokenizer = Tokenizer.load(cfg.model.path)
    engine = await Engine.start(cfg.model, cfg.actor, cfg.run.seed, tokenizer.eos_ids)
    # no Hello before this: whoever is in takes part in every broadcast, and one that is not ready would hold up the others
    to, limit = cfg.buffer.address, cfg.buffer.max_message_mb << 20
    client = BufferClient(to, _hello(cfg, name, tokenizer), max_bytes=limit, keys=cfg.buffer.keys)
    inbox = client.inbox(Tickets, UpdateWeights, GroupAck)
    pool = VerifierPool(cfg.actor.verifier_workers, cfg.actor.verifier_timeout_s)
    try:
        await pool.start()
        welcome = await asyncio.to_thread(client.connect, CONNECT_S)
        stats = ActorStats(cfg.actor.max_none_rate)
        worker = RolloutWorker(engine, tokenizer, pool, stats, name)
        await Actor(client, inbox, engine, worker, stats, cfg.weights.timeout_s).run(welcome.heartbeat_s)
    finally:
        client.close(cfg.actor.grace_s / 2)
        await pool.close()
        await engine.close()


class Actor:
    """The loop over the buffer's messages, with its tasks: one per ticket, at most one for weights, one for statistics."""

    def __init__(
        self, client: BufferClient, inbox: Inbox, engine: Engine, worker: RolloutWorker, stats: ActorStats, weights_s: float
    ) -> None:
        self._client, self._inbox, self._engine, self._worker, self._stats = client, inbox, engine, worker, stats
        self._weights_timeout_s = weights_s
        self._generation = -1  # of the weights that the engine holds
        self._working: dict[tuple[int, int], asyncio.Task[None]] = {}  # by generation and ordinal
        self._unacknowledged: set[tuple[int, int]] = set()  # tickets whose group was sent; the client sends it again if it must
        self._update: UpdateWeights | None = None  # the newest that is not being applied yet
        self._applying: asyncio.Task[None] | None = None

    async def run(self, heartbeat_s: float) -> None:
        """Consumes: Tickets, UpdateWeights, GroupAck. Blocks on: the inbox. Unblocked by: a message, Stop, a dead buffer,
        SIGTERM, or a task that failed. Stops when: any of the last four; tickets in flight are handed back."""
        leaving = asyncio.current_task()
        assert leaving is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.cancel)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(heartbeat_s))
                while True:
                    message = await self._next_message()
                    if isinstance(message, UpdateWeights):
                        self._update = message
                        self._engine.supersede()
                        if self._applying is None:
                            self._applying = tasks.create_task(self._apply())
                    elif isinstance(message, GroupAck):
                        self._unacknowledged = {key for key in self._unacknowledged if key[1] != message.ordinal}
                    else:
                        for ticket in filter(self._is_new, message.tickets):
                            self._working[_key(ticket)] = tasks.create_task(self._work(ticket))
        except asyncio.CancelledError:
            leaving.uncancel()
            log.info("SIGTERM: handed back what was in flight")

    async def _next_message(self) -> Tickets | UpdateWeights | GroupAck:
        while True:
            try:
                return await self._inbox.take_async(QUIET_S)
            except DeadlineExceeded as silence:
                if type(silence) is not DeadlineExceeded:  # BufferUnreachable
                    raise

    def _is_new(self, ticket: Ticket) -> bool:
        """After a broken connection the buffer sends again whatever it counts as ours."""
        return _key(ticket) not in self._working and _key(ticket) not in self._unacknowledged

    async def _work(self, ticket: Ticket) -> None:
        try:
            if ticket.generation != self._generation:
                self._give_back(ticket, f"of generation {ticket.generation}, this actor's weights are of {self._generation}")
                return
            group = await self._worker.work(ticket)
            if group.rollouts:
                self._unacknowledged.add(_key(ticket))
                self._client.send(GroupResult(group=group))
            else:
                self._give_back(ticket, f"none of its {group.dropped_rollouts} rollouts got a verdict")
        except asyncio.CancelledError:
            self._give_back(ticket, "the actor leaves")
            raise
        finally:
            self._working.pop(_key(ticket), None)

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
                checksums = await self._engine.apply_weights(update, self._weights_timeout_s)
                self._generation = update.generation
                self._stats.counts["weight_updates"] += 1
            except WeightsError as failure:
                error = str(failure)
                self._stats.counts["failed_updates"] += 1
                log.warning("version %d was not applied: %s", update.version, error)
            self._stats.paused(self._engine.paused_s - paused)
            answer = {name: getattr(update, name) for name in ("generation", "version", "epoch")}
            self._client.send(WeightsApplied(**answer, checksums=checksums, seconds=perf_counter() - start, error=error))
        self._applying = None

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


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error of a group, however deep: the others followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
