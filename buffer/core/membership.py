"""Which actor holds which weights, and who takes part in the next broadcast.

    Publish -> plan: members, epoch      UpdateWeights -> each member      WeightsApplied -> ... -> PublishResult

An epoch is one process group: the learner and a fixed list of actors. Another list, or a member that failed, makes another one.
An actor that failed or was late is cordoned: no tickets, until it acknowledged weights again.

Deadlines of a broadcast; the deadline of one phase of it comes with Publish:
- Nobody answers: the learner gives up (its next Publish names the epoch), or `timeout_s` is over.
- Somebody applied the weights: the others have the deadline of a phase from then on.
- Somebody failed: a group that breaks for one breaks for all, so the others have half of it after the last answer.
Who is silent beyond is absent, and out of all broadcasts until it answers or `timeout_s` passed: a stopped actor costs others
one wait, not one a version. Who answered with errors twice in a row may be what breaks the group of the others: suspects take
part one at a time, after all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...common.messages import Publish, PublishPlan, PublishResult, UpdateWeights, WeightsApplied

SUSPICIOUS = 2  # errors in a row that make an actor a suspect


@dataclass(slots=True)
class Holding:
    """The weights of one living actor."""

    generation: int = -1
    version: int = -1  # last acknowledged; -1: none, or not to be trusted
    cordoned: bool = False
    out_until_s: float = 0.0  # it takes part in no broadcast before that
    errors: int = 0  # in a row


@dataclass(slots=True)
class _Group:
    """What a process group stands on: any difference makes another epoch."""

    generation: int
    store_host: str
    store_port: int
    members: list[str]


@dataclass(slots=True)
class _Publishing:
    """The broadcast under way."""

    message: Publish
    epoch: int
    members: list[str]
    deadline_s: float
    started_s: float
    phase_timeout_s: float
    first_applied_s: float | None = None
    last_answer_s: float | None = None
    num_answers: int = 0
    applied: dict[str, list[int]] = field(default_factory=dict)  # name -> checksums
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    absent: set[str] = field(default_factory=set)  # of `failed`: gave no answer

    @property
    def done(self) -> bool:
        return len(self.applied) + len(self.failed) == len(self.members)

    def look(self, now: float) -> None:
        """Note when answers came: at the first look after them."""
        num_answers = len(self.applied) + len(self.failed) - len(self.absent)
        if num_answers > self.num_answers:
            self.num_answers, self.last_answer_s = num_answers, now
        if self.applied and self.first_applied_s is None:
            self.first_applied_s = now

    def close(self, now: float) -> None:
        """Who is silent is absent."""
        for name in self.members:
            if name not in self.applied and name not in self.failed:
                self.failed[name] = f"no answer within {now - self.started_s:.3g} s"
                self.absent.add(name)

    def due_s(self) -> float:
        """When who is silent counts as absent."""
        if self.last_answer_s is None:
            return self.deadline_s
        sure_s = self.last_answer_s + self.phase_timeout_s / 2
        if self.first_applied_s is not None:
            sure_s = max(sure_s, self.first_applied_s + self.phase_timeout_s)
        return min(self.deadline_s, sure_s)


class Membership:
    """The weights plane as the buffer sees it. Bytes never pass here."""

    def __init__(self, *, timeout_s: float, resync_interval_s: float) -> None:
        """`timeout_s`: of one publish. `resync_interval_s`: between two requests to the learner."""
        self.epoch = 0
        self._timeout_s, self._resync_interval_s = timeout_s, resync_interval_s
        self._holdings: dict[str, Holding] = {}
        self._group: _Group | None = None  # of the current epoch; None when it cannot be used again
        self._publishing: _Publishing | None = None
        self._ask_at_s = 0.0  # not before this is the learner asked to publish again

    def restore(self, epoch: int) -> None:
        """Go on from the recorded epoch: no epoch is used twice."""
        self.epoch = epoch

    def join(self, name: str) -> None:
        """An actor (re)started: it holds nothing."""
        self._holdings[name] = Holding()
        self._break_epoch_of(name)

    def leave(self, name: str) -> None:
        """An actor is gone, or takes no more weights."""
        self._holdings.pop(name, None)
        self._break_epoch_of(name)
        publishing = self._publishing
        if publishing is not None and name in publishing.members and name not in publishing.applied:
            publishing.failed.setdefault(name, "the actor is gone")
            publishing.absent.add(name)

    def _break_epoch_of(self, name: str) -> None:
        if self._group is not None and name in self._group.members:
            self._group = None

    def learner_joined(self, now: float) -> None:
        """Another learner process: the epoch cannot go on. It publishes first; nobody needs to ask."""
        self._group = None
        self._publishing = None
        self._ask_at_s = now + self._resync_interval_s

    def version_of(self, name: str, generation: int) -> int | None:
        """The version that an actor may generate with, or None."""
        holding = self._holdings.get(name)
        if holding is None or holding.cordoned or holding.generation != generation or holding.version < 0:
            return None
        return holding.version

    def is_cordoned(self, name: str) -> bool:
        """Whether an actor gets no tickets because weights did not reach it."""
        holding = self._holdings.get(name)
        return holding is not None and holding.cordoned

    def publish(self, message: Publish, now: float) -> tuple[PublishPlan, dict[str, UpdateWeights]]:
        """Plan a broadcast: (the learner's plan, each member's part). An earlier one that is still under way is given up."""
        interrupted, self._publishing = self._publishing, None
        if interrupted is not None:
            self._group = None  # it is in the middle of a broadcast
            self._give_up(interrupted, message, now)
        members = self._members_of(message, now)
        if not members:
            return PublishPlan(epoch=self.epoch, version=message.version, members=[]), {}
        group = _Group(message.generation, message.store_host, message.store_port, members)
        if group != self._group:
            self.epoch += 1
            self._group = group
        self._publishing = _Publishing(
            message=message,
            epoch=self.epoch,
            members=members,
            started_s=now,
            deadline_s=now + self._timeout_s,
            phase_timeout_s=message.phase_timeout_s if 0 < message.phase_timeout_s < self._timeout_s else self._timeout_s,
        )
        return PublishPlan(epoch=self.epoch, version=message.version, members=members), {
            name: UpdateWeights(
                generation=message.generation,
                version=message.version,
                epoch=self.epoch,
                rank=rank,
                world_size=len(members) + 1,
                store_host=message.store_host,
                store_port=message.store_port,
                manifest=message.manifest,
                phase_timeout_s=message.phase_timeout_s,
            )
            for rank, name in enumerate(members, start=1)
        }

    def _give_up(self, publishing: _Publishing, message: Publish, now: float) -> None:
        """Another Publish came first. The learner never saw these acknowledgements, so nobody has compared the checksums."""
        for name in publishing.applied.keys() & self._holdings.keys():
            self._holdings[name].cordoned = True
        if message.given_up == publishing.epoch:  # not so when a Publish came twice, because its plan was lost
            publishing.close(now)
            self._cordon_failed(publishing, now)

    def _members_of(self, message: Publish, now: float) -> list[str]:
        """Who is asked to take part: everybody that needs these weights, or the suspect with the fewest errors."""
        needing = {
            name: holding.errors
            for name, holding in self._holdings.items()
            if now >= holding.out_until_s
            and (holding.cordoned or holding.generation != message.generation or holding.version < message.version)
        }
        sound = [name for name, errors in needing.items() if errors < SUSPICIOUS]
        return sound or sorted(needing, key=needing.__getitem__)[:1]

    def applied(self, name: str, message: WeightsApplied) -> None:
        """A member answers. Answers to a broadcast that is over change nothing but that the actor is asked again."""
        holding, publishing = self._holdings.get(name), self._publishing
        if holding is None:
            return  # it is leaving
        current = publishing is not None and publishing.epoch == message.epoch and name in publishing.members
        if publishing is None or not current or publishing.message.version != message.version:
            holding.out_until_s = 0.0
            return
        if name in publishing.applied or name in publishing.failed:
            return
        if message.error:
            publishing.failed[name] = message.error
            holding.errors += 1
            return
        publishing.applied[name] = message.checksums
        holding.generation, holding.version = message.generation, message.version
        holding.cordoned, holding.out_until_s, holding.errors = False, 0.0, 0

    def try_finish(self, now: float) -> PublishResult | None:
        """The result of the broadcast under way, once everybody answered or its deadline passed."""
        publishing = self._publishing
        if publishing is None:
            return None
        publishing.look(now)
        if now >= publishing.due_s():
            publishing.close(now)
        if not publishing.done:
            return None
        self._publishing = None
        self._ask_at_s = now + self._resync_interval_s
        self._cordon_failed(publishing, now)
        return PublishResult(
            epoch=publishing.epoch,
            version=publishing.message.version,
            checksums=publishing.applied,
            failed=publishing.failed,
        )

    def _cordon_failed(self, publishing: _Publishing, now: float) -> None:
        """Who gave no answer is out; who answered with an error also, for a while, if the broadcast reached others.

        When it reached nobody, an error is most likely that of another member: one that is gone breaks the broadcast of all.
        """
        if not publishing.failed:
            return
        self._group = None
        for name in publishing.failed.keys() & self._holdings.keys():
            holding = self._holdings[name]
            holding.cordoned = True
            if name in publishing.absent:
                holding.out_until_s = now + self._timeout_s
            elif publishing.applied or (len(publishing.members) == 1 and holding.errors >= SUSPICIOUS):
                holding.out_until_s = now + min(self._timeout_s, self._resync_interval_s * 2 ** min(holding.errors, 10))

    def cordon(self, names: list[str]) -> dict[str, int]:
        """The learner found these to hold other weights than it sent: they hold nothing now.

        Returns those that live, with the version that they were thought to hold.
        """
        living = {name: self._holdings[name].version for name in names if name in self._holdings}
        for name in living:
            self._holdings[name] = Holding(cordoned=True)
            self._break_epoch_of(name)
        return living

    def lacking(self, generation: int, version: int) -> list[str]:
        """Living actors that hold nothing of this generation, or less than `version` (-1: anything will do)."""
        held = {name: self.version_of(name, generation) for name in self._holdings}
        return [name for name, holds in held.items() if holds is None or holds < version]

    def should_ask(self, generation: int, version: int, now: float) -> str:
        """Why the learner must be asked to publish now; empty when it need not. Asks at most once per `resync_interval_s`.

        `version`: what actors must hold, at least; -1 when anything of the generation will do.
        """
        lacking = [name for name in self.lacking(generation, version) if now >= self._holdings[name].out_until_s]
        if not lacking or self._publishing is not None or now < self._ask_at_s:
            return ""
        self._ask_at_s = now + max(self._resync_interval_s, self._timeout_s / 4)
        return f"{', '.join(lacking)} lack weights of generation {generation}"
