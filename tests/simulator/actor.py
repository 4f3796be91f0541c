"""Simulated actors: they are slow, lag, return tickets, hand them over, send groups twice, leave and come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from prolong.common import messages as m
from prolong.common.types import FinishReason, Group, Rollout, StartedRollout, Ticket, Verdict, VerdictStatus, VersionSpan

from .audit import Violation
from .client import Client
from .handover import finished, hand_over
from .plan import TOKENS, WRONG
from .pulling import Pulling, Snapshot, pulled_answer, source_of

if TYPE_CHECKING:
    from .world import World

GRACE_S = 3.0


@dataclass
class Work:
    """A ticket that an actor works on, and the versions that have sampled tokens of it so far."""

    ticket: Ticket
    versions: list[int] = field(default_factory=list)


class Actor(Client):
    """Answers messages as actor/main.py does, without an engine."""

    role = m.Role.actor

    def __init__(self, world: World, name: str, life: int) -> None:
        self.generation = self.version = -1
        self.update: m.UpdateWeights | None = None
        self.applying = self.leaving = False
        self.work: dict[tuple[int, int], Work] = {}  # by generation and ordinal
        self.unacknowledged: set[int] = set()
        self.pulling: Pulling | None = None
        self.readers: m.WeightReaders | None = None
        super().__init__(world, name, life)

    def hello(self) -> m.Hello:
        plan = self.world.plan
        if self.name not in plan.link_s:
            return self.greeting(capacity=plan.capacity)
        self.pulling = Pulling(self, self.ended, plan.lag_s)
        serves = source_of(self) if self.name in plan.servers else None
        return self.greeting(capacity=plan.capacity, transport="pull", serves=serves)

    def obey(self, message: Any) -> None:
        match message:
            case m.Tickets():
                for ticket in message.tickets:
                    key = ticket.generation, ticket.ordinal
                    if key not in self.work and ticket.ordinal not in self.unacknowledged:
                        self.start(ticket)
            case m.GroupAck():
                self.unacknowledged.discard(message.ordinal)
            case m.UpdateWeights() if self.pulling is not None:
                if not self.world.chance(self.world.plan.bad_weights / 2):
                    self.pulling.offer(message)
            case m.WeightReaders():
                self.readers = message
            case m.UpdateWeights():
                # else the update is lost, and never answered
                if not self.world.chance(self.world.plan.bad_weights / 2):
                    self.update = message  # replaces an older one that was not applied yet
                    self.maybe_apply()

    def maybe_apply(self) -> None:
        if self.update is not None and not self.applying:
            update, self.update, self.applying = self.update, None, True
            self.later(self.world.soon(self.world.plan.lag_s), self.apply, update)

    def apply(self, update: m.UpdateWeights) -> None:
        self.applying = False
        self.maybe_apply()
        answer = m.WeightsApplied(
            generation=update.generation, version=update.version, epoch=update.epoch, checksums=[], seconds=0.0
        )
        if self.world.chance(self.world.plan.bad_weights / 2):
            self.say(msgspec.structs.replace(answer, error="lost the connection"))
            return
        self.hold(update)
        self.say(answer)

    def snapshot(self) -> Snapshot | None:
        """What others can pull from it, if it serves."""
        return self.pulling.held if self.pulling is not None and self.readers is not None else None

    def ended(self, update: m.UpdateWeights, snapshot: Snapshot | None) -> None:
        """The engine has the weights of a pull, or the pull failed."""
        if snapshot is None:
            self.say(pulled_answer(update, [], "nobody gave it"))
            return
        self.hold(update)
        wrong = self.world.chance(self.world.plan.wrong_weights)
        self.say(pulled_answer(update, [WRONG] if wrong else snapshot.checksums))

    def hold(self, update: m.UpdateWeights) -> None:
        self.generation, self.version = update.generation, update.version
        for work in self.work.values():
            if work.ticket.generation == self.generation and work.versions[-1] != self.version:
                work.versions.append(self.version)

    def start(self, ticket: Ticket) -> None:
        world, plan = self.world, self.world.plan
        if self.leaving and world.chance(plan.hand_over):
            self.pass_on(ticket, ticket.started)
            return
        if ticket.generation != self.generation or self.leaving:
            self.say(m.TicketReturned(ordinal=ticket.ordinal, reason="of other weights"))
            return
        newest = max((span.version for rollout in ticket.started for span in rollout.spans), default=ticket.version)
        if self.version < newest and (self.pulling is not None or not world.learner_restarts):
            raise Violation(f"ticket {ticket.ordinal} needs version {newest}, {self.name} holds {self.version}")
        key = ticket.generation, ticket.ordinal
        self.work[key] = Work(ticket, [self.version])
        if world.chance(plan.returned):
            self.later(world.soon(plan.think_s / 2), self.give_back, key, "no room")
        elif not world.chance(plan.hang):
            self.later(world.soon(self.think_s() * (10 if world.chance(plan.heavy) else 1)), self.end, key)

    def think_s(self) -> float:
        """Mean time of a rollout of this actor."""
        plan, index = self.world.plan, int(self.name.removeprefix("actor-"))
        return plan.think_s * plan.slower ** (index / max(plan.actors - 1, 1))

    def give_back(self, key: tuple[int, int], reason: str) -> None:
        if self.work.pop(key, None) is not None:
            self.say(m.TicketReturned(ordinal=key[1], reason=reason))

    def pass_on(self, ticket: Ticket, started: list[StartedRollout]) -> None:
        self.unacknowledged.add(ticket.ordinal)
        message = m.TicketHandedOver(ordinal=ticket.ordinal, generation=ticket.generation, started=started)
        for _ in range(2 if self.world.chance(self.world.plan.duplicate) else 1):
            self.say(message)

    def end(self, key: tuple[int, int]) -> None:
        work = self.work.pop(key, None)
        if work is None:
            return
        group = make_group(work, self.name, self.world)
        self.world.judge.made(group)
        self.unacknowledged.add(group.ordinal)
        for _ in range(2 if self.world.chance(self.world.plan.duplicate) else 1):
            self.say(m.GroupResult(group=group))

    def leave(self) -> None:
        """SIGTERM: take no more tickets, and hand over or return those that do not end in time."""
        if not self.leaving:
            self.leaving = True
            self.say(m.Leave(reason="SIGTERM"))
            self.later(GRACE_S, self._left)

    def _left(self) -> None:
        for key, work in list(self.work.items()):
            if self.world.chance(self.world.plan.hand_over):
                del self.work[key]
                self.pass_on(work.ticket, hand_over(work.ticket, work.versions, self.name, self.world.rng))
            else:
                self.give_back(key, "the actor leaves")
        self.exit()

    def start_again(self) -> None:
        self.world.actors[self.name] = Actor(self.world, self.name, self.life + 1)


def make_group(work: Work, actor: str, world: World) -> Group:
    """A group whose rollout 0 has tokens of every version of the work, while the others ended under an earlier one."""
    signal = not world.chance(world.plan.zero_spread)
    shorter = work.versions[: world.rng.randint(1, len(work.versions))]
    ticket = work.ticket
    if ticket.started:
        return Group.for_ticket(ticket, finished(ticket, work.versions, signal=signal), actor=actor, seconds=1.0)
    tokens = 2 if ticket.prompt.task == "t0" else TOKENS  # so that lengths can be foretold
    others = [make_rollout(tuple(shorter), 0.0 if signal else 1.0, tokens)] * (ticket.sampling.n - 1)
    return Group.for_ticket(ticket, [make_rollout(tuple(work.versions), 1.0, tokens), *others], actor=actor, seconds=1.0)


_ROLLOUTS: dict[tuple[tuple[int, ...], float, int], Rollout] = {}


def make_rollout(versions: tuple[int, ...], reward: float, tokens: int = TOKENS) -> Rollout:
    """A rollout of one token for each version, and more of the last until there are `tokens`.

    When there are more versions than tokens, it keeps the first version and the newest of the others.
    """
    known = _ROLLOUTS.get((versions, reward, tokens))
    if known is None:
        spread = (versions[0], *versions[1:][-(TOKENS - 1) :])
        tokens_made = max(tokens, len(spread))
        ends = [*range(1, len(spread)), tokens_made]
        spans = [VersionSpan(version=v, start=i, end=end) for i, (v, end) in enumerate(zip(spread, ends, strict=True))]
        verdict = Verdict(reward=reward, status=VerdictStatus.ok, verifier="none", seconds=0.0)
        known = _ROLLOUTS[versions, reward, tokens] = Rollout(
            token_ids=b"\0" * 4 * tokens_made,
            behaviour_logprobs=b"\0" * 4 * tokens_made,
            spans=spans,
            finish_reason=FinishReason.stop,
            verdict=verdict,
        )
    return known
