"""Actors and a learner that are slow, lag, die, send twice and come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from prolong.common import messages as m
from prolong.common.types import Batch, FinishReason, Group, Manifest, Rollout, Ticket, Verdict, VersionSpan

from .judge import Violation
from .plan import TOKENS

if TYPE_CHECKING:
    from .simulator import World

MANIFEST = Manifest(buckets=[])


class Client:
    """A process with a socket."""

    role: m.Role

    def __init__(self, world: World, identity: bytes, name: str, pid: int) -> None:
        self.world, self.identity, self.name, self.pid = world, identity, name, pid
        self.alive, self.sent_s, self.heard_s = True, 0.0, 0.0
        world.clients[identity] = self
        self.greet()
        world.at(world.rng.random(), self.beat)

    def greet(self) -> None:
        raise NotImplementedError

    def say(self, message: Any) -> None:
        self.world.to_buffer(self, message)

    def beat(self) -> None:
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
        return m.Hello(role=self.role, name=self.name, protocol=1, tokenizer="tok", host="h", pid=self.pid, **more)


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
    """Rollout 0 lived through every version of the work, rollout 1 ended under an earlier one."""
    signal = not world.chance(world.plan.zero_spread)
    shorter = work.versions[: world.rng.randint(1, len(work.versions))]
    rollouts = [make_rollout(tuple(work.versions), 1.0), make_rollout(tuple(shorter), 0.0 if signal else 1.0)]
    ticket = work.ticket
    return Group(
        ordinal=ticket.ordinal,
        kind=ticket.kind,
        generation=ticket.generation,
        prompt=ticket.prompt,
        setting=ticket.setting,
        rollouts=rollouts[: ticket.sampling.n],
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


class Learner(Client):
    role = m.Role.learner

    def __init__(self, world: World, identity: bytes, version: int, generation: int) -> None:
        self.version, self.generation = version, generation
        self.saved: list[tuple[int, int]] = []  # (version, generation) of checkpoints, oldest first
        self.publishing = self.finishing = False
        self.again = self.busy = False
        self.asked = -1  # version of the batch that it waits for
        super().__init__(world, identity, "learner", int(identity.split(b"-")[1]))

    def greet(self) -> None:
        self.say(self.hello(version=self.version, generation=self.generation))

    def obey(self, message: Any) -> None:
        match message:
            case m.Welcome():
                self.enter(message.generation)
            case m.BatchReady():
                self.train(message.batch)
            case m.PublishPlan():
                self.publishing = bool(message.members)
                if self.again and not self.publishing:
                    self.publish()
            case m.PublishResult():
                self.publishing = False
                if self.again or message.failed:
                    self.publish()
            case m.SyncRequested():
                self.publish()
            case m.Finished():
                self.world.over = True

    def enter(self, generation: int) -> None:
        if self.generation != generation:
            self.world.forks += self.generation > 0 or generation > 1
        self.generation = generation
        self.publishing = False
        self.publish()
        if self.finishing:
            self.say(m.Finish(generation=generation, version=self.version))
        elif self.version == self.world.plan.steps:
            self.finish()
        elif not self.busy:
            self.take()

    def publish(self) -> None:
        self.again = self.publishing
        if not self.publishing:
            self.publishing = True
            self.say(
                m.Publish(generation=self.generation, version=self.version, store_host="h", store_port=1, manifest=MANIFEST)
            )

    def take(self) -> None:
        self.asked = self.version
        self.say(m.TakeBatch(generation=self.generation, version=self.version))

    def train(self, batch: Batch) -> None:
        if batch.generation != self.generation or batch.version != self.asked:
            return  # asked for before a reconnect, answered twice
        self.asked, self.busy = -1, True
        world, plan = self.world, self.world.plan
        if world.chance(plan.learner_crash):
            world.at(world.soon(plan.train_s), self.die)
            return
        if world.chance(plan.buffer_crash):
            world.at(world.soon(plan.train_s), world.crash_buffer)
        world.at(world.soon(plan.train_s), self.stepped)

    def stepped(self) -> None:
        if not self.alive:
            return
        self.version, self.busy = self.version + 1, False
        self.say(m.StepDone(generation=self.generation, version=self.version))
        self.publish()
        if self.version % self.world.plan.checkpoint == 0 or self.version == self.world.plan.steps:
            self.saved = [*self.saved, (self.version, self.generation)][-self.world.plan.keep :]
            self.say(m.CheckpointSaved(generation=self.generation, version=self.version))
        if self.version == self.world.plan.steps:
            self.finish()
        else:
            self.take()

    def finish(self) -> None:
        self.finishing = True
        self.say(m.Finish(generation=self.generation, version=self.version))

    def die(self) -> None:
        self.alive = False
        self.world.at(self.world.soon(2.0), self.return_anew)

    def return_anew(self) -> None:
        saved = [] if self.world.chance(self.world.plan.forget) else self.saved
        version, generation = saved[-1] if saved else (0, -1)
        self.world.learner = Learner(self.world, b"learner-%d" % (self.pid + 1), version, generation)
        self.world.learner.saved = list(saved)
