"""The actor process: tickets and weights in, scored groups out.

buffer --Tickets--> rollouts.py (one task per ticket) --GroupResult--> buffer
buffer --UpdateWeights--> updates.py (one at a time, the newest first) --WeightsApplied--> buffer
SIGTERM --Leave--> buffer; groups that end in time are still sent, all other tickets are handed over to other actors
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Collection, Sequence
from typing import Protocol, assert_never

from ..buffer.client.client import BufferClient
from ..common.config.actors import in_pool
from ..common.config.sections import Config
from ..common.errors import WireSizeError, root_error
from ..common.messages import (
    PROTOCOL_VERSION,
    GroupAck,
    GroupResult,
    Hello,
    Leave,
    Role,
    TicketHandedOver,
    TicketReturned,
    Tickets,
    UpdateWeights,
    WeightReaders,
)
from ..common.monitoring.endpoint import serve_vitals
from ..common.monitoring.vitals import Vitals
from ..common.tokenizer import Tokenizer
from ..common.transport.keys import load_client_keys
from ..common.types import Group, StartedRollout, Ticket
from ..common.weights.transports import broadcast_transport
from ..verifiers.workers.pool import make_pool
from .conversation import CONNECT_S, Arrivals, Outbox, next_message
from .engines.api import Engine
from .engines.registry import engine_class
from .in_flight import InFlightCap
from .pulling import Pulling, check_serving_host
from .rollouts import RolloutWorker
from .stats import ActorStats
from .updates import WeightUpdates
from .vitals import ActorVitals

FLUSH_SHARE = 0.2  # of the grace period: kept for the last messages and their acknowledgements
HAND_OVER_SHARE = 0.2  # of the grace period: kept to interrupt what is in flight

ActorInput = Tickets | UpdateWeights | GroupAck | WeightReaders
TicketKey = tuple[int, int]  # generation and ordinal

log = logging.getLogger(__name__)


def main(cfg: Config, name: str, pool: str = "") -> int:
    """Run until the buffer says Stop (RunStopped), SIGTERM, or an error. Raises subclasses of ProlongError.

    cfg: of the run; the settings of `pool` are laid over it.
    After SIGTERM it returns the exit code 0, within `actor.grace_s` and a second for the end of the engine. Threads of the
    engine may still be inside torch: the caller ends the process without dismantling it (`launch/entry.py`).
    """
    # for as long as the engine starts; after that the event loop handles the signal
    signal.signal(signal.SIGTERM, _exit)
    try:
        with serve_vitals(cfg, "actor", name) as vitals:
            try:
                asyncio.run(_run(in_pool(cfg, pool), name, pool, _published_dtype(cfg, pool), vitals))
            finally:
                # the loop left the signal's default behind, and a second SIGTERM may come when everything is done
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except BaseExceptionGroup as group:
        raise root_error(group) from None
    return 0


async def _run(cfg: Config, name: str, pool: str, dtype: str, vitals: Vitals) -> None:
    vitals.enter("starts its engine", hindrance="it starts")
    # before the engine starts
    broadcast_transport(cfg.weights)
    if cfg.weights.serve:
        check_serving_host(cfg)
    tokenizer = Tokenizer.load(cfg.model.path)
    engine = await engine_class(cfg.actor.engine).start(cfg.model, cfg.actor, cfg.run.seed, tokenizer.eos_ids)
    await work_with(engine, tokenizer, cfg, name, pool, dtype=dtype, vitals=vitals)


async def work_with(
    engine: Engine, tokenizer: Tokenizer, cfg: Config, name: str, pool: str, *, dtype: str, vitals: Vitals
) -> None:
    """Be an actor with an engine that is ready, until `main` would end, and close the engine.

    dtype: that weights must have; "" accepts any.
    """
    # Hello comes after the engine is ready: from then on the actor is a member of every broadcast, and would delay the others
    to, limit = cfg.buffer.address, cfg.buffer.max_message_mb << 20
    pulling = Pulling(cfg.weights, load_client_keys(cfg.buffer.keys), serves=cfg.weights.serve)
    client = BufferClient(to, _hello(cfg, name, pool, tokenizer, pulling), max_bytes=limit, keys=cfg.buffer.keys)
    inbox = client.inbox(Tickets, UpdateWeights, GroupAck, WeightReaders)
    judges = make_pool(cfg.verifiers)
    grace_s, flush_s = cfg.actor.grace_s, FLUSH_SHARE * cfg.actor.grace_s
    hand_over_s = HAND_OVER_SHARE * grace_s if cfg.actor.hand_over else 0.0
    try:
        await judges.start()
        await judges.usable()
        welcome = await asyncio.to_thread(client.connect, CONNECT_S)
        stats = ActorStats(cfg.verifiers.max_none_rate, judges.counters, lambda: engine.load, pulling.counters)
        worker = RolloutWorker(engine, tokenizer, judges, stats, name, vitals.tracer)
        to_engine = engine, pulling, stats, client.send
        updates = WeightUpdates(*to_engine, timeout_s=cfg.weights.timeout_s, dtype=dtype, tracer=vitals.tracer)
        leave_s = grace_s - flush_s - hand_over_s
        cap = InFlightCap(cfg.actor.capacity)
        actor = Actor(
            client,
            inbox,
            updates,
            worker,
            stats,
            cap,
            leave_within_s=leave_s,
            hand_over_within_s=hand_over_s,
            vitals=ActorVitals(vitals, cfg.buffer.lease_s),
        )
        await actor.run(welcome.heartbeat_s)
    finally:
        client.close(flush_s)
        pulling.close()
        await judges.close()
        await engine.close()


class GroupMaker(Protocol):
    """The part of `RolloutWorker` that the loop needs."""

    async def work(self, ticket: Ticket) -> Group | list[StartedRollout]:
        """The scored group of `ticket`, or what there is of it after `interrupt`; cancelling aborts it."""
        ...

    async def interrupt(self) -> None:
        """End all work soon."""
        ...


class Actor:
    """The loop over the buffer's messages, and its tasks.

    There is one task per ticket, at most one for weights, one that reports statistics, and one that waits for SIGTERM.
    """

    def __init__(
        self,
        client: Outbox,
        inbox: Arrivals[ActorInput],
        updates: WeightUpdates,
        worker: GroupMaker,
        stats: ActorStats,
        cap: InFlightCap,
        *,
        leave_within_s: float,
        hand_over_within_s: float = 0.0,
        vitals: ActorVitals | None = None,
    ) -> None:
        """`leave_within_s`: from SIGTERM to the end of what is in flight.

        `hand_over_within_s`: after that, to interrupt the rest and hand it over; 0: its tickets are given back without tokens.
        """
        self._client, self._inbox, self._updates, self._worker, self._stats = client, inbox, updates, worker, stats
        self._cap, self._vitals = cap, vitals
        self._leave_within_s, self._hand_over_within_s = leave_within_s, hand_over_within_s
        self._working: dict[TicketKey, Ticket] = {}
        # their groups are sent, and repeated by the client until they are acknowledged
        self._unacknowledged: set[TicketKey] = set()
        self._leaving = asyncio.Event()  # SIGTERM came: no new tickets
        self._may_end = asyncio.Event()  # nothing is in flight any more, or a second SIGTERM came
        self._no_tickets = asyncio.Event()  # after SIGTERM: all tickets ended

    async def run(self, heartbeat_s: float) -> None:
        """Work until the run is over, or SIGTERM and its grace period.

        Consumes: Tickets, UpdateWeights, GroupAck. Blocks on: the inbox. Unblocked by: a message, Stop, a dead buffer, a task
        that failed, the end of the grace period. Stops when: any of the last four; tickets in flight are handed over or back.
        SIGTERM begins the grace period and a second SIGTERM ends it; an error in it ends it too, and is not raised.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_sigterm)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report(heartbeat_s))
                tasks.create_task(self._leave_in_time())
                while True:
                    match await next_message(self._inbox):
                        case UpdateWeights() as update:
                            if self._updates.offer(update):
                                tasks.create_task(self._update())
                        case WeightReaders() as readers:
                            self._updates.admit(readers)
                        case GroupAck() as acknowledged:
                            self._forget(acknowledged.ordinal)
                        case Tickets() as given:
                            for ticket in self._accept(given.tickets):
                                tasks.create_task(self._work(ticket))
                        case _ as forgotten:
                            assert_never(forgotten)
        except BaseExceptionGroup as group:
            if not self._leaving.is_set():
                raise
            log.info("left: %r", root_error(group))
        finally:
            self._hand_back(self._working.values())

    def _on_sigterm(self) -> None:
        if self._leaving.is_set():
            self._may_end.set()
        else:
            self._leaving.set()

    async def _leave_in_time(self) -> None:
        """After SIGTERM: end when nothing is in flight any more, or after `leave_within_s` and the handover of the rest."""
        await self._leaving.wait()
        log.info("SIGTERM: %d tickets in flight have %.1f s to end", len(self._working), self._leave_within_s)
        self._client.send(Leave(reason="SIGTERM"))
        self._end_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._leave_within_s):
                await self._may_end.wait()
        if self._working and self._hand_over_within_s > 0:
            log.info("%d tickets are handed over", len(self._working))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._hand_over_within_s):
                    await self._worker.interrupt()
                    await self._no_tickets.wait()
        raise _Left(f"{len(self._working)} tickets are handed back")

    def _end_if_idle(self) -> None:
        """Leave if no ticket and no update has to be waited for."""
        if self._leaving.is_set() and not self._working:
            self._no_tickets.set()
            if not self._updates.busy:
                self._may_end.set()

    async def _update(self) -> None:
        await self._updates.apply_all()
        self._end_if_idle()

    # --- tickets ---

    def _accept(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Those to work on. After a broken connection the buffer repeats all tickets it has leased to this actor."""
        fresh = [t for t in tickets if _key(t) not in self._working and _key(t) not in self._unacknowledged]
        if self._leaving.is_set():
            self._pass_on(fresh)
            return []
        self._working |= {_key(ticket): ticket for ticket in fresh}
        self._cap.note_groups(ticket.sampling.n for ticket in fresh)
        return fresh

    async def _work(self, ticket: Ticket) -> None:
        held = self._updates.generation
        if ticket.generation != held:
            self._give_back(ticket, f"of generation {ticket.generation}, this actor's weights are of {held}")
        else:
            made = await self._worker.work(ticket)
            if isinstance(made, list):
                self._hand_over(ticket, made)
            elif made.rollouts:
                self._unacknowledged.add(_key(ticket))
                self._client.send(GroupResult(group=made))
            else:
                self._give_back(ticket, f"none of its {made.dropped_rollouts} rollouts got a verdict")
        del self._working[_key(ticket)]
        self._end_if_idle()

    def _forget(self, ordinal: int) -> None:
        """What was sent of that ticket is durable, or refused: either way it need not be protected from being made twice."""
        self._unacknowledged = {key for key in self._unacknowledged if key[1] != ordinal}

    def _pass_on(self, tickets: Collection[Ticket]) -> None:
        """Tickets that crossed Leave go to another actor, with the tokens that they came with."""
        if self._hand_over_within_s == 0:
            self._hand_back(tickets)
        elif tickets:
            self._client.send(Leave(reason="SIGTERM"))
            for ticket in tickets:
                self._hand_over(ticket, ticket.started)

    def _hand_over(self, ticket: Ticket, started: list[StartedRollout]) -> None:
        """Another actor goes on with the ticket. As a group it is kept until it is acknowledged."""
        message = TicketHandedOver(ordinal=ticket.ordinal, generation=ticket.generation, started=started)
        try:
            self._client.send(message)
        except WireSizeError as error:
            self._give_back(ticket, str(error))
        else:
            self._unacknowledged.add(_key(ticket))

    def _hand_back(self, tickets: Collection[Ticket]) -> None:
        """Give up `tickets` because this actor leaves.

        Leave goes first, so that the buffer does not lease them to this actor again. It is repeated with every lot: a buffer
        that was restarted may have forgotten the first.
        """
        if tickets:
            self._client.send(Leave(reason="SIGTERM" if self._leaving.is_set() else "the actor ends"))
        for ticket in tickets:
            self._give_back(ticket, "the actor leaves")

    def _give_back(self, ticket: Ticket, reason: str) -> None:
        self._stats.counts["returned_tickets"] += 1
        self._client.send(TicketReturned(ordinal=ticket.ordinal, reason=reason))

    async def _report(self, every_s: float) -> None:
        while True:
            self._updates.check()
            held = sum(ticket.sampling.n for ticket in self._working.values())
            room = self._cap.report(self._stats.load(), held, self._stats.counts["generated_rollouts"])
            numbers = self._stats.snapshot()
            self._client.set_stats(numbers, room)
            if self._vitals is not None:
                self._vitals.note(numbers, room, has_weights=self._updates.generation >= 0)
            await asyncio.sleep(every_s)


def _key(ticket: Ticket) -> TicketKey:
    return ticket.generation, ticket.ordinal


def _published_dtype(cfg: Config, pool: str) -> str:
    """The dtype that weights come in; "" for a pool whose engine has a dtype of its own, to which they are converted."""
    return "" if pool and "dtype" in cfg.pools[pool].model else cfg.model.dtype


def _hello(cfg: Config, name: str, pool: str, tokenizer: Tokenizer, pulling: Pulling) -> Hello:
    return Hello(
        role=Role.actor,
        name=name,
        protocol=PROTOCOL_VERSION,
        tokenizer=tokenizer.fingerprint,
        host=socket.gethostname(),
        pid=os.getpid(),
        pool=pool,
        capacity=cfg.actor.capacity,
        transport=cfg.weights.transport,
        serves=pulling.source,
    )


class _Left(Exception):
    """The end that SIGTERM asked for."""


def _exit(*_: object) -> None:
    raise SystemExit(0)
