"""A simulated actor: tickets in, scored groups out, weights on the way, heartbeats. It speaks the messages of the real one."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ....actor.engines.load import EngineLoad
from ....actor.in_flight import InFlightCap
from ....common.message_kinds import BufferMessage
from ....common.messages import (
    PROTOCOL_VERSION,
    FromClient,
    GroupResult,
    Heartbeat,
    Hello,
    Role,
    Tickets,
    UpdateWeights,
    WeightsApplied,
)
from ....common.types import PULL, FinishReason, Group, PullAddress, Rollout, Ticket, Verdict, VerdictStatus, VersionSpan
from .cluster import Cluster, PoolDevice
from .engine import EngineTotals, SimulatedEngine, SimulatedGroup, SimulatedRollout
from .event_queue import EventQueue
from .lengths import LengthSampler

TOKENIZER = "simulated"
_ZEROS = memoryview(bytes(4 << 20))
_VERDICTS = {reward: Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0) for reward in (0.0, 1.0)}


@dataclass(slots=True)
class Verifying:
    """Groups of all actors that are generated, and lack a verdict."""

    total: int = 0


class SimulatedActor:
    """One actor of a pool. Its name tells the pool: POOL-INDEX."""

    def __init__(
        self,
        name: str,
        pool: str,
        *,
        cluster: Cluster,
        events: EventQueue,
        sampler: LengthSampler,
        send: Callable[[bytes, FromClient], None],
        clear_kv: bool,
        heartbeat_s: float,
        verifying: Verifying,
    ) -> None:
        self.name, self.pool, self.identity = name, pool, name.encode()
        self.device: PoolDevice = cluster.pools[pool]
        self.engine = SimulatedEngine(self.device)
        self.is_alive = False
        self.num_groups = 0  # delivered
        self.down_s = 0.0  # between a death and the next greeting
        self._cluster, self._events, self._sampler, self._send = cluster, events, sampler, send
        self._clear_kv, self._heartbeat_s = clear_kv, heartbeat_s
        self._groups: dict[int, SimulatedGroup] = {}
        self._verifying, self._num_verifying = verifying, 0
        # updates: the one that is on its way, and the newest that came meanwhile
        self._update: UpdateWeights | None = None
        self._offered: UpdateWeights | None = None
        self._num_updates = self._wake_number = 0
        self._workers_free_s = [0.0] * cluster.verifiers.workers  # heap
        self._life = self._num_ended = 0
        self._cap = InFlightCap(self.device.capacity)

    # --- messages -------------------------------------------------------------------------------------------------------

    def greet(self, _: int = 0) -> None:
        """Start: hello to the buffer, and the first heartbeat."""
        self._life += 1
        self.is_alive = True
        self.down_s += self._events.now - self.engine.now
        self._restart_engine()
        greeting = Hello(
            role=Role.actor,
            name=self.name,
            protocol=PROTOCOL_VERSION,
            tokenizer=TOKENIZER,
            host=self.pool,
            pid=self._life,
            capacity=self.device.capacity,
            transport=self._cluster.weights.transport,
            pool=self.pool,
        )
        self._send(self.identity, greeting)
        self._events.after(self._heartbeat_s, self._beat, self._life)

    def hear(self, message: BufferMessage) -> None:
        """A message of the buffer."""
        if isinstance(message, Tickets):
            self._cap.note_groups(ticket.sampling.n for ticket in message.tickets)
            for ticket in message.tickets:
                self._start(ticket)
            self._expect_wake()
        elif isinstance(message, UpdateWeights):
            self._offer(message)

    def _beat(self, life: int) -> None:
        if life != self._life:
            return
        self.catch_up()
        self._send(self.identity, Heartbeat(stats=self.stats(), room=self._room()))
        self._events.after(self._heartbeat_s, self._beat, life)

    def _room(self) -> int:
        """What the shipped cap makes of the engine's signals."""
        held = sum(group.ticket.sampling.n for group in self._groups.values())
        return self._cap.report(load_of(self.engine.totals), held, self._num_ended)

    def stats(self) -> dict[str, float]:
        """The numbers of a heartbeat."""
        totals = self.engine.totals
        return {
            "busy_s": totals.busy_s,
            "idle_s": totals.idle_s,
            "weights_s": totals.weights_s,
            **load_of(totals).numbers(),
            "generated_tokens": totals.tokens,
            "in_flight": float(self.engine.num_running + self.engine.num_waiting),
        }

    # --- weights --------------------------------------------------------------------------------------------------------

    def _offer(self, update: UpdateWeights) -> None:
        """A broadcast ends when a newer update comes. A pull goes on, as behind a slow link none would end otherwise."""
        if self._update is not None and update.rendezvous.transport == PULL:
            self._offered = update
            return
        self._update = update
        self._num_updates += 1
        publish_s = (self._cluster.weights.publish_s + self.device.publish_s) / self.engine.speed
        self._events.after(publish_s, self._take_weights, self._num_updates)

    def _take_weights(self, number: int) -> None:
        """New weights are here: generation pauses for them."""
        if number != self._num_updates or self._update is None:
            return  # a newer update replaced it
        pause_s = self._cluster.weights.pause_s / self.engine.speed
        ended = self.engine.load_weights(self._update.version, pause_s, clear_kv=self._clear_kv, now=self._events.now)
        self._judge(ended)
        self._expect_wake()
        self._events.after(pause_s, self._acknowledge, number)

    def _acknowledge(self, number: int) -> None:
        if number != self._num_updates or self._update is None:
            return
        update, self._update = self._update, None
        address = update.rendezvous.address
        answer = WeightsApplied(
            generation=update.generation,
            version=update.version,
            epoch=update.epoch,
            checksums=[],
            seconds=self._cluster.weights.pause_s,
            catalog=catalog_of(address) if update.rendezvous.transport == PULL else b"",
        )
        self._send(self.identity, answer)
        offered, self._offered = self._offered, None
        if offered is not None and offered.version > update.version:
            self._offer(offered)

    # --- rollouts -------------------------------------------------------------------------------------------------------

    def _start(self, ticket: Ticket) -> None:
        work, now = self._sampler.work(ticket), self._events.now
        group = SimulatedGroup(ticket, work.rewards, len(ticket.prompt.token_ids) // 4, now, len(work.lengths))
        self._groups[ticket.ordinal] = group
        self._judge(self.engine.add(group, work.lengths, now))

    def _expect_wake(self) -> None:
        self._wake_number += 1
        when_s = self.engine.next_look_s()
        if when_s < float("inf"):
            self._events.at(when_s, self._wake, self._wake_number)

    def _wake(self, number: int) -> None:
        if number != self._wake_number:
            return
        ended = self.engine.advance(self._events.now)
        self._judge(ended)
        self._expect_wake()

    def set_speed(self, speed: float) -> None:
        """Go on at this share of the device's speed."""
        self.catch_up()
        self.engine.set_speed(speed)
        self._expect_wake()

    def catch_up(self) -> None:
        """Let the engine's time pass until now."""
        ended = self.engine.advance(self._events.now)
        if ended:
            self._judge(ended)
            self._expect_wake()

    def _judge(self, ended: list[SimulatedRollout]) -> None:
        """Verify rollouts as they end; a group is delivered with its last verdict."""
        latency_s, free_s = self._cluster.verifiers.latency_s, self._workers_free_s
        self._num_ended += len(ended)
        for rollout in ended:
            group = rollout.group
            verdict_s = rollout.ended_s + latency_s
            if free_s:
                verdict_s = max(rollout.ended_s, free_s[0]) + latency_s
                heapq.heapreplace(free_s, verdict_s)
            group.verdict_s = max(group.verdict_s, verdict_s)
            group.ended.append(rollout)
            group.num_left -= 1
            if group.num_left > 0:
                continue
            if group.verdict_s <= self._events.now:
                self._deliver(group.ticket.ordinal)
            else:
                self._verifying.total += 1
                self._num_verifying += 1
                self._events.at(group.verdict_s, self._deliver_verified, group.ticket.ordinal)

    def _deliver_verified(self, ordinal: int) -> None:
        if ordinal in self._groups:
            self._verifying.total -= 1
            self._num_verifying -= 1
            self._deliver(ordinal)

    def _deliver(self, ordinal: int) -> None:
        group = self._groups.pop(ordinal, None)
        if group is not None:
            self.num_groups += 1
            self._send(self.identity, GroupResult(group=self._scored(group)))

    def _scored(self, group: SimulatedGroup) -> Group:
        group.ended.sort(key=lambda rollout: rollout.index)
        rollouts = [make_simulated(rollout, group.rewards[rollout.index]) for rollout in group.ended]
        group.forget_rollouts()
        return Group.for_ticket(group.ticket, rollouts, actor=self.name, seconds=self._events.now - group.started_s)

    # --- failures -------------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """Everything is lost; `greet` starts the next process of this name."""
        self._life += 1
        self.is_alive = False
        self._groups.clear()
        self._update = self._offered = None
        self._verifying.total -= self._num_verifying
        self._num_verifying = 0
        self._num_updates += 1
        self._wake_number += 1
        self.engine.advance(self._events.now)
        self._restart_engine()
        self._workers_free_s = [0.0] * self._cluster.verifiers.workers
        self._cap = InFlightCap(self.device.capacity)

    def _restart_engine(self) -> None:
        """An empty engine, whose sums go on."""
        totals, speed = self.engine.totals, self.engine.speed
        self.engine = SimulatedEngine(self.device, self._events.now)
        self.engine.totals = totals
        self.engine.set_speed(speed)


def load_of(totals: EngineTotals) -> EngineLoad:
    """The sums as an engine reports them: each rollout that runs gets a token in each step."""
    return EngineLoad(
        steps=totals.steps,
        tokens=totals.tokens,
        running=totals.tokens,
        waiting=totals.waiting,
        kv_use=totals.kv_use,
        preemptions=float(totals.preemptions),
    )


def catalog_of(address: bytes) -> bytes:
    """The digest that proves what is pulled there."""
    return msgspec.msgpack.decode(address, type=PullAddress).catalog


def make_simulated(rollout: SimulatedRollout, reward: float) -> Rollout:
    """The message of a rollout: so many zeros, and spans of whole tokens."""
    num_tokens = rollout.length
    return Rollout(
        token_ids=_ZEROS[: 4 * num_tokens],  # pyright: ignore[reportArgumentType]
        behaviour_logprobs=_ZEROS[: 4 * num_tokens],  # pyright: ignore[reportArgumentType]
        spans=whole_spans(rollout.pieces, num_tokens),
        finish_reason=FinishReason.stop,
        verdict=_VERDICTS[reward],
    )


def whole_spans(pieces: list[tuple[int, float]], num_tokens: int) -> list[VersionSpan]:
    """Spans over tokens 0 to `num_tokens` from (version, tokens) with fractions. The first version keeps a token at least."""
    if len(pieces) == 1:
        return [VersionSpan(version=pieces[0][0], start=0, end=num_tokens)]
    spans: list[VersionSpan] = []
    start, reached = 0, 0.0
    for place, (version, tokens) in enumerate(pieces):
        reached += tokens
        end = num_tokens if place == len(pieces) - 1 else min(max(round(reached), 1), num_tokens)
        if end <= start:
            continue
        if spans and spans[-1].version == version:
            spans[-1] = VersionSpan(version=version, start=spans[-1].start, end=end)
        else:
            spans.append(VersionSpan(version=version, start=start, end=end))
        start = end
    return spans
