"""Actors that are slow, lag, die, lose their connection, send twice and come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from prolong.common import messages as m
from prolong.common.types import FinishReason, Group, Rollout, Ticket, Verdict, VersionSpan

from .judge import Violation
from .plan import TOKENS

if TYPE_CHECKING:
    from .simulator import World


class Client:
    """A process with a socket."""

    role: m.Role

    def __init__(self, world: World, identity: bytes, name: str, pid: int) -> None:
        self.world, self.identity, self.name, self.pid = world, identity, name, pid
        self.alive, self.sent_s, self.heard_s = True, 0.0, 0.0
        self.connection = 0  # what is under way when it breaks is lost, in both directions
        world.clients[identity] = self
        self.greet()
        world.at(world.rng.random(), self.beat)

    def greet(self) -> None:
        raise NotImplementedError

    def say(self, message: Any) -> None:
        self.world.to_buffer(self, message)

    def beat(self) -> None:
        if self.alive and self.world.chance(self.world.plan.broken):
            self.connection += 1
            self.greet()
        if self.alive:
            self.say(m.Heartbeat())
            self.world.at(4.0, self.beat)

    def hear(self, message: Any) -> None:
        if not self.alive:
            return
        if isinstance(message, m.Alive):
            if not message.known:
                self.greet()
        elif isinstance(message, m.Refused):
            assert message.retry, message
            self.world.at(1.0, self.greet)
        else:
            self.obey(message)

    def obey(self, message: Any) -> None:
        raise NotImplementedError

    def hello(self, **more: Any) -> m.Hello:
        return m.Hello(
            role=self.role, name=self.name, protocol=m.PROTOCOL_VERSION, tokenizer="tok", host="h", pid=self.pid, **more
        )


@dataclass
class Work:
    """A ticket that an actor generates, and the versions that its tokens got so far."""

    ticket: Ticket
    versions: list[int] = field(default_factory=list)


class Actor(Client):
    role = m.Role.actor

    def __init__(self, world: World, name: str, pid: int) -> None:
        self.generation = self.version = -1
        self.updated_s = 0.0
        self.work: dict[int, Work] = {}
        self.unacknowledged: dict[int, m.GroupResult] = {}
        super().__init__(world, f"{name}/{pid}".encode(), name, pid)

    def greet(self) -> None:
        self.say(self.hello(capacity=self.world.plan.capacity, version=self.version))
        for result in self.unacknowledged.values():
            self.say(result)

    def obey(self, message: Any) -> None:
        match message:
            case m.Tickets():
                for ticket in message.tickets:
                    if ticket.ordinal not in self.work and ticket.ordinal not in self.unacknowledged:
                        self.start(ticket)
            case m.GroupAck():
                self.unacknowledged.pop(message.ordinal, None)
            case m.UpdateWeights():
                if not self.world.chance(self.world.plan.bad_weights / 2):  # or it is never heard of again
                    world = self.world  # one update after the other
                    self.updated_s = max(self.updated_s, world.now + world.soon(world.plan.lag_s))
                    world.at(self.updated_s - world.now, self.apply, message)

    def apply(self, update: m.UpdateWeights) -> None:
        if not self.alive:
            return
        answer = m.WeightsApplied(
            generation=update.generation, version=update.version, epoch=update.epoch, checksums=[], seconds=0.0
        )
        if self.world.chance(self.world.plan.bad_weights / 2):
            self.say(msgspec.structs.replace(answer, error="lost the connection"))
            return
        if update.generation < self.generation:
            return
        self.generation, self.version = update.generation, update.version
        for work in self.work.values():
            if work.ticket.generation == self.generation and work.versions[-1] != self.version:
                work.versions.append(self.version)
        self.say(answer)

    def start(self, ticket: Ticket) -> None:
        world, plan = self.world, self.world.plan
        if ticket.generation < self.generation:
            return  # of a dead timeline: weights of another one arrived first
        if self.version < ticket.version or self.generation < ticket.generation:
            raise Violation(f"ticket {ticket.ordinal} says version {ticket.version}, {self.name} holds {self.version}")
        self.work[ticket.ordinal] = Work(ticket, [self.version])
        if world.chance(plan.crash):
            world.at(world.soon(plan.think_s / 2), self.die)
        elif world.chance(plan.returned):
            world.at(world.soon(plan.think_s / 2), self.give_back, ticket.ordinal)
        elif not world.chance(plan.hang):
            world.at(world.soon(plan.think_s * (10 if world.chance(plan.heavy) else 1)), self.end, ticket.ordinal)

    def give_back(self, ordinal: int) -> None:
        if self.work.pop(ordinal, None) is not None:
            self.say(m.TicketReturned(ordinal=ordinal, reason="no room"))

    def end(self, ordinal: int) -> None:
        work = self.work.pop(ordinal, None)
        if work is None or not self.alive:
            return
        group = make_group(work, self.name, self.world)
        self.world.judge.made(group)
        self.unacknowledged[ordinal] = m.GroupResult(group=group)
        for _ in range(2 if self.world.chance(self.world.plan.duplicate) else 1):
            self.say(self.unacknowledged[ordinal])

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.world.at(self.world.soon(6.0), self.return_anew)

    def return_anew(self) -> None:
        self.world.actors[self.world.actors.index(self)] = Actor(self.world, self.name, self.pid + 1)


def make_group(work: Work, actor: str, world: World) -> Group:
    """Rollout 0 lived through every version of the work, the others ended under an earlier one."""
    signal = not world.chance(world.plan.zero_spread)
    shorter = work.versions[: world.rng.randint(1, len(work.versions))]
    ticket = work.ticket
    others = [make_rollout(tuple(shorter), 0.0 if signal else 1.0)] * (ticket.sampling.n - 1)
    return Group(
        ordinal=ticket.ordinal,
        kind=ticket.kind,
        generation=ticket.generation,
        prompt=ticket.prompt,
        setting=ticket.setting,
        sampling=ticket.sampling,
        rollouts=[make_rollout(tuple(work.versions), 1.0), *others],
        actor=actor,
        seconds=1.0,
    )


_ROLLOUTS: dict[tuple[tuple[int, ...], float], Rollout] = {}


def make_rollout(versions: tuple[int, ...], reward: float) -> Rollout:
    """A rollout of one token a version, and more of the last; the oldest versions are squeezed out when there are too many."""
    known = _ROLLOUTS.get((versions, reward))
    if known is None:
        spread = (versions[0], *versions[1:][-(TOKENS - 1) :])
        ends = [*range(1, len(spread)), TOKENS]
        spans = [VersionSpan(version=v, start=i, end=end) for i, (v, end) in enumerate(zip(spread, ends, strict=True))]
        verdict = Verdict(reward=reward, status="ok", verifier="none", seconds=0.0)
        known = _ROLLOUTS[versions, reward] = Rollout(
            token_ids=b"\0" * 4 * TOKENS,
            behaviour_logprobs=b"\0" * 4 * TOKENS,
            spans=spans,
            finish_reason=FinishReason.stop,
            verdict=verdict,
        )
    return known
