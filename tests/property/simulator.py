"""A seeded world around the real core: actors, a learner and a network that misbehave, in virtual time.

One seed is one schedule. Everything that the world claims is checked from outside, on what the core sent:
its own record of token versions, of tickets seen, of batches handed out. `Violation` says what broke.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from prolong.buffer.core import BufferCore
from prolong.buffer.journal import MemoryJournal
from prolong.buffer.prompts import PromptMixture
from prolong.common import messages as m
from prolong.common.config import (
    BufferConfig,
    CheckpointConfig,
    Config,
    ModelConfig,
    Preference,
    RunConfig,
    SamplingConfig,
    Straggler,
    ValidationConfig,
    WeightsConfig,
)
from prolong.common.types import (
    Batch,
    FinishReason,
    Group,
    Manifest,
    Prompt,
    Rollout,
    Ticket,
    TicketKind,
    TicketState,
    Verdict,
    VersionSpan,
)

TOKENS = 4  # of every rollout
HORIZON_S = 20_000.0  # virtual; a schedule that is not over by then is stuck
MAX_EVENTS = 20_000
MANIFEST = Manifest(buckets=[])


class Violation(AssertionError):
    """The core broke a promise."""


@dataclass(kw_only=True)
class Plan:
    """What a schedule is made of. `draw` makes one from a seed."""

    seed: int
    batch: int
    eta: int
    steps: int
    straggler: Straggler
    preference: Preference
    dynamic: bool
    max_filtered: float
    zero_spread: float  # share of groups without signal
    actors: int
    capacity: int
    think_s: float  # mean time of a rollout
    heavy: float  # share of tickets that take ten times as long
    hang: float  # share of tickets that never end
    lag_s: float  # mean time until weights are applied
    train_s: float  # mean time of a step
    latency_s: float
    crash: float  # chance per ticket that the actor dies with it
    returned: float  # chance per ticket that it is handed back
    duplicate: float  # chance per group that it is sent twice
    bad_weights: float  # chance per update that it fails, or is never answered
    learner_crash: float  # chance per step
    forget: float  # chance that a learner that restarts has lost its checkpoints
    buffer_crash: float  # chance per step
    heldout: int
    every: int  # versions between validation sweeps
    checkpoint: int
    keep: int

    @classmethod
    def draw(cls, seed: int) -> Plan:
        rng = random.Random(seed)
        troubled = rng.random() < 0.6
        restarts = rng.random() < 0.35
        return cls(
            seed=seed,
            batch=rng.choice((1, 2, 2, 3, 4)),
            eta=rng.choice((0, 1, 1, 2, 3)),
            steps=rng.randint(2, 5),
            straggler=rng.choice(tuple(Straggler)),
            preference=rng.choice(tuple(Preference)),
            dynamic=rng.random() < 0.7,
            max_filtered=rng.choice((0.0, 0.5, 1.0, 2.0)),
            zero_spread=rng.choice((0.0, 0.3, 0.8)),
            actors=rng.choice((1, 1, 2, 3)),
            capacity=rng.choice((1, 2, 4, 8)),
            think_s=rng.choice((0.2, 1.0, 4.0)),
            heavy=rng.choice((0.0, 0.2)),
            hang=rng.choice((0.0, 0.05)) if troubled else 0.0,
            lag_s=rng.choice((0.05, 1.0, 6.0)),
            train_s=rng.choice((0.1, 1.0, 3.0)),
            latency_s=rng.choice((0.0, 0.05, 0.5)),
            crash=rng.choice((0.0, 0.03, 0.1)) if troubled else 0.0,
            returned=rng.choice((0.0, 0.05)) if troubled else 0.0,
            duplicate=rng.choice((0.0, 0.2)) if troubled else 0.0,
            bad_weights=rng.choice((0.0, 0.1)) if troubled else 0.0,
            learner_crash=rng.choice((0.1, 0.25)) if restarts else 0.0,
            forget=rng.choice((0.0, 0.5)),
            buffer_crash=0.15 if restarts and rng.random() < 0.3 else 0.0,
            heldout=rng.choice((0, 0, 1, 2)),
            every=rng.choice((0, 1, 2)),
            checkpoint=rng.choice((1, 2, 3)),
            keep=rng.choice((1, 2)),
        )

    def config(self) -> Config:
        return Config(
            run=RunConfig(steps=self.steps, seed=self.seed),
            model=ModelConfig(path="none"),
            sampling=SamplingConfig(n=2, max_tokens=TOKENS),
            buffer=BufferConfig(
                batch_groups=self.batch,
                eta=self.eta,
                straggler=self.straggler,
                preference=self.preference,
                dynamic_sampling=self.dynamic,
                max_filtered=self.max_filtered,
                lease_s=60.0,
                heartbeat_s=2.0,
                silence_s=10.0,
            ),
            validation=ValidationConfig(every=self.every, n=2, max_tokens=TOKENS),
            checkpoint=CheckpointConfig(every=self.checkpoint, keep=self.keep),
            weights=WeightsConfig(timeout_s=20.0),
        )


def prompts(name: str, count: int) -> list[Prompt]:
    return [
        Prompt(uid=f"{name}/{i}", domain="d", task=f"t{i % 2}", text="?", token_ids=b"\0\0\0\0", verifier="none")
        for i in range(count)
    ]


TRAIN, HELDOUT = prompts("train", 7), prompts("heldout", 2)


class Judge:
    """Watches what the core sends, and its ledger, and raises Violation."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.issued: set[int] = set()  # ordinals of training tickets
        self.stored: set[int] = set()  # ordinals of groups that were accepted to be trained
        self.made_by_actors: dict[int, Group] = {}
        self.handed_out: dict[tuple[int, int], bytes] = {}  # (generation, version) -> the batch
        self.used: set[int] = set()  # ordinals in any batch
        self.num_served_again = 0
        self.counts_tickets = True
        self.last_word: m.Status | None = None

    def made(self, group: Group) -> None:
        self.made_by_actors[group.ordinal] = group

    def saw(self, message: Any, core: BufferCore) -> None:
        match message:
            case m.Tickets():
                fresh = {ticket.ordinal for ticket in message.tickets if ticket.kind is TicketKind.train}
                if fresh & self.issued:
                    raise Violation(f"issued twice: {fresh & self.issued}")
                self.issued |= fresh
            case m.GroupAck() if message.accepted and not message.reason and message.ordinal in self.issued:
                self.stored.add(message.ordinal)
            case m.BatchReady():
                self.batch(message.batch)
            case m.Finished():
                self.last_word = message.status
                return
            case _:
                return
        self.deadlines(core)

    def batch(self, batch: Batch) -> None:
        """B groups as the actors made them, young enough, none used before; the very same when served again."""
        key, encoded = (batch.generation, batch.version), msgspec.msgpack.encode(batch)
        if key in self.handed_out:
            self.num_served_again += 1
            if self.handed_out[key] != encoded:
                raise Violation(f"the batch of {key} was served again, but differs")
            return
        self.handed_out[key] = encoded
        ordinals = [group.ordinal for group in batch.groups]
        if len(ordinals) != self.plan.batch or ordinals != sorted(set(ordinals)) or self.used & set(ordinals):
            raise Violation(f"batch {key} has groups {ordinals}; used before: {self.used & set(ordinals)}")
        self.used |= set(ordinals)
        for group in batch.groups:
            if group.kind is not TicketKind.train or group != self.made_by_actors.get(group.ordinal):
                raise Violation(f"batch {key} holds a group that nobody made: {group.ordinal}")
            versions = [span.version for rollout in group.rollouts for span in rollout.spans]
            oldest_trained = max(versions) if self.plan.straggler is Straggler.mask else min(versions)
            if batch.version - oldest_trained > self.plan.eta:
                raise Violation(f"group {group.ordinal} of versions {versions} is in batch {key}, eta {self.plan.eta}")
            if group.generation != batch.generation:
                raise Violation(f"group {group.ordinal} of generation {group.generation} is in batch {key}")

    def deadlines(self, core: BufferCore) -> None:
        """`wait`: for every k, at most k B tickets must be in the next k batches."""
        if self.plan.straggler is not Straggler.wait:
            return
        ages = [e.group.oldest_version if e.group else e.ticket.version for e in core.store.ledger.entries()]
        for k in range(self.plan.eta + 1):
            due = sum(version + self.plan.eta < core.store.head + k for version in ages)
            if due > k * self.plan.batch:
                raise Violation(f"{due} tickets are due in the next {k} batches of {self.plan.batch}: versions {ages}")

    def balanced(self, core: BufferCore) -> None:
        counts, total = core.store.ledger.counts, core.store.ledger.total
        if total != sum(counts.values()) or counts[TicketState.trained] != core.store.version * self.plan.batch:
            raise Violation(f"out of balance: {total} issued, {counts}, version {core.store.version}")
        if self.counts_tickets and total != len(self.issued):
            raise Violation(f"{len(self.issued)} tickets were sent, the ledger knows {total}: {counts}")
        if counts[TicketState.leased] + counts[TicketState.stored] > (self.plan.eta + 1) * self.plan.batch:
            raise Violation(f"more tickets under way than admission allows: {counts}")

    def end(self, *, untroubled: bool) -> None:
        """What the last word says must be the whole run."""
        assert self.last_word is not None
        counts = self.last_word.ledger
        live = sum(counts[state] for state in ("issued", "leased", "stored", "batched"))
        if live or counts["trained"] != self.plan.steps * self.plan.batch:
            raise Violation(f"the run ended with {counts}")
        if untroubled and self.plan.straggler is Straggler.wait:
            if counts["stale"]:
                raise Violation(f"`wait` dropped {counts['stale']} groups")
            if self.stored - self.used:
                raise Violation(f"`wait` lost the groups {self.stored - self.used}")
        scored = {(score.version, score.setting) for score in self.last_word.validation}
        due = {(version, setting) for version in (0, self.plan.steps) for setting in ("sampled", "greedy")}
        if self.plan.heldout and not due <= scored:
            raise Violation(f"the run ended before its validation: {due - scored}")


class World:
    """Core, journal, clients, and the events to come."""

    def __init__(self, plan: Plan, core_class: type[BufferCore] = BufferCore) -> None:
        self.plan, self.rng, self.now = plan, random.Random(plan.seed * 7919 + 1), 0.0
        self.cfg, self.journal, self._core_class = plan.config(), MemoryJournal(), core_class
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_events = 0
        self.clients: dict[bytes, Client] = {}
        self.buffer_crashes = self.forks = 0
        self.over = False
        self.judge = Judge(plan)
        self.core = self._new_core()
        self.learner = Learner(self, b"learner-0", version=0, generation=-1)
        self.actors = [Actor(self, f"actor-{i}", pid=0) for i in range(plan.actors)]

    def _new_core(self) -> BufferCore:
        return self._core_class(
            self.cfg, PromptMixture([(TRAIN, 1.0)], self.plan.seed), HELDOUT[: self.plan.heldout], "tok", self.journal
        )

    def at(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        self._num_events += 1
        heapq.heappush(self.events, (self.now + delay_s, self._num_events, action, args))

    def soon(self, mean_s: float) -> float:
        return mean_s * self.rng.uniform(0.2, 1.8)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def to_buffer(self, client: Client, message: Any) -> None:
        if client.alive:
            client.sent_s = max(client.sent_s, self.now + self.soon(self.plan.latency_s))  # a socket keeps the order
            self.at(client.sent_s - self.now, self._deliver, client.identity, message)

    def _deliver(self, identity: bytes, message: Any) -> None:
        self._route(self.core.handle(identity, message, self.now))
        self._route(self.core.tick(self.now))
        self.judge.balanced(self.core)

    def _route(self, outgoing: list[tuple[bytes, Any]]) -> None:
        for identity, message in outgoing:
            self.judge.saw(message, self.core)
            client = self.clients.get(identity)
            if client is not None and client.alive:
                client.heard_s = max(client.heard_s, self.now + self.soon(self.plan.latency_s))
                self.at(client.heard_s - self.now, client.hear, message)

    def crash_buffer(self) -> None:
        self.buffer_crashes += 1
        self.core = self._new_core()
        self.judge.counts_tickets = False  # those after the last record are forgotten

    def run(self) -> None:
        while not self.over:
            if not self.events or self._num_events > MAX_EVENTS or self.now > HORIZON_S:
                raise Violation(f"stuck at {self.now:.0f} s after {self._num_events} events: {self.core.status(self.now)}")
            self.now, _, action, args = heapq.heappop(self.events)
            action(*args)
        self.judge.end(untroubled=not self.forks and not self.buffer_crashes)


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
