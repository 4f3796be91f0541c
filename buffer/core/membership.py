"""Which actor holds which weights, and which actors take part in the next broadcast. The bytes never pass here.

    Publish -> PublishPlan to the learner, UpdateWeights to each member -> WeightsApplied from each -> PublishResult

An epoch is one list of members at one rendezvous, in one generation. Another list, or a member that failed, begins another one.
An actor that failed or was late is cordoned: it gets no tickets until it acknowledges weights again.

Deadlines of a broadcast, where Publish says how long one phase of it may take:
- No member has answered: the learner gives up (its next Publish names the epoch), or `timeout_s` has passed.
- A member applied the weights: the others have the deadline of a phase from then on.
- A member failed: its failure breaks the broadcast for the others too, which have half that time after the last answer.
A member that is silent for longer is absent, and takes part in no broadcast until it answers or `timeout_s` has passed: so a
stopped actor delays the others once, not with every version. An actor that answered with errors twice in a row may be the
one that breaks the broadcasts of the others: such suspects take part one at a time, once no other actor needs weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...common.messages import Publish, PublishPlan, PublishResult, UpdateWeights, WeightsApplied
from ...common.types import Rendezvous
from .held_versions import HeldVersions, names_text

SUSPICIOUS = 2  # errors in a row that make an actor a suspect


@dataclass(slots=True)
class Holding:
    """The weights of one living actor."""

    generation: int = -1
    version: int = -1  # acknowledged last; -1: none, or not to be trusted
    cordoned: bool = False
    excluded_until_s: float = 0.0  # it takes part in no broadcast before that time
    num_errors: int = 0  # in a row


@dataclass(slots=True)
class _EpochKey:
    """The identity of an epoch: any difference begins another one."""

    generation: int
    rendezvous: Rendezvous
    members: dict[str, None]  # in order


@dataclass(slots=True)
class _Broadcast:
    """The broadcast under way."""

    message: Publish
    epoch: int
    members: dict[str, None]  # in order
    started_s: float
    deadline_s: float
    phase_timeout_s: float
    first_applied_s: float | None = None
    last_answer_s: float | None = None
    num_answers: int = 0
    applied: dict[str, list[int]] = field(default_factory=dict)  # name -> checksums
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason
    absent: set[str] = field(default_factory=set)  # names in `failed` that gave no answer

    @property
    def is_over(self) -> bool:
        """Whether every member has applied the weights or failed."""
        return len(self.applied) + len(self.failed) == len(self.members)

    def note_answers(self, now: float) -> None:
        """Note when answers came: `now`, if some have come since the last call."""
        num_answers = len(self.applied) + len(self.failed) - len(self.absent)
        if num_answers > self.num_answers:
            self.num_answers, self.last_answer_s = num_answers, now
        if self.applied and self.first_applied_s is None:
            self.first_applied_s = now

    def silent_until_s(self) -> float:
        """The time at which members that have not answered become absent."""
        if self.last_answer_s is None:
            return self.deadline_s
        until_s = self.last_answer_s + self.phase_timeout_s / 2
        if self.first_applied_s is not None:
            until_s = max(until_s, self.first_applied_s + self.phase_timeout_s)
        return min(self.deadline_s, until_s)

    def give_up(self, now: float) -> None:
        """Members that have not answered are absent."""
        for name in self.members:
            if name not in self.applied and name not in self.failed:
                self.failed[name] = f"no answer within {now - self.started_s:.3g} s"
                self.absent.add(name)


class Membership:
    """The weights plane as the buffer sees it. No clock: the caller says what time it is.

    Example:
        membership = Membership(timeout_s=60.0, resync_interval_s=1.0)
        membership.join("actor-0")
        plan, updates = membership.publish(Publish(version=7, ...), now)   # plan.members == ["actor-0"]
        membership.applied("actor-0", WeightsApplied(version=7, epoch=plan.epoch, ...))
        result = membership.try_finish(now)                                # PublishResult(checksums={"actor-0": [...]}, ...)
        membership.version_of("actor-0", generation=1)                     # 7: it may generate
    """

    def __init__(self, *, timeout_s: float, resync_interval_s: float) -> None:
        """`timeout_s`: of one broadcast. `resync_interval_s`: the learner is not asked for weights more often than that."""
        self.epoch = 0
        self._timeout_s, self._resync_interval_s = timeout_s, resync_interval_s
        self._holdings: dict[str, Holding] = {}
        # what `version_of` says, by version
        self._held = HeldVersions()
        self._epoch_key: _EpochKey | None = None  # of the current epoch; None when it cannot be used again
        self._broadcast: _Broadcast | None = None
        self._ask_at_s = 0.0  # the learner is not asked for weights before that time

    def restore(self, epoch: int) -> None:
        """Go on from the recorded epoch: no epoch is used twice."""
        self.epoch = epoch

    def join(self, name: str) -> None:
        """An actor started, or started again: it holds nothing."""
        self._holdings[name] = Holding()
        self._note(name)
        self._end_epoch_of(name)

    def _note(self, name: str) -> None:
        """The weights of an actor changed, or whether it may use them."""
        holding = self._holdings[name]
        self._held.note(name, holding.generation, -1 if holding.cordoned else holding.version)

    def leave(self, name: str) -> None:
        """An actor is gone, or takes no more weights."""
        self._holdings.pop(name, None)
        self._held.forget(name)
        self._end_epoch_of(name)
        broadcast = self._broadcast
        if broadcast is not None and name in broadcast.members and name not in broadcast.applied:
            broadcast.failed.setdefault(name, "the actor is gone")
            broadcast.absent.add(name)

    def _end_epoch_of(self, name: str) -> None:
        if self._epoch_key is not None and name in self._epoch_key.members:
            self._epoch_key = None

    def learner_joined(self, now: float) -> None:
        """Another learner process: the epoch cannot go on. A learner publishes when it starts, so it is not asked to."""
        self._epoch_key = None
        self._broadcast = None
        self._ask_at_s = now + self._resync_interval_s

    def version_of(self, name: str, generation: int) -> int | None:
        """The version that an actor may generate with, or None."""
        holding = self._holdings.get(name)
        if holding is None or holding.cordoned or holding.generation != generation or holding.version < 0:
            return None
        return holding.version

    def names(self) -> list[str]:
        """The living actors that take part in broadcasts, in order of joining."""
        return list(self._holdings)

    def is_cordoned(self, name: str) -> bool:
        """Whether an actor gets no tickets because weights did not reach it."""
        holding = self._holdings.get(name)
        return holding is not None and holding.cordoned

    def publish(self, message: Publish, now: float) -> tuple[PublishPlan, dict[str, UpdateWeights]]:
        """Plan a broadcast: (the learner's plan, each member's part by name). An earlier one that goes on is given up."""
        interrupted, self._broadcast = self._broadcast, None
        if interrupted is not None:
            self._epoch_key = None  # its connections are in the middle of a broadcast
            self._interrupt(interrupted, message, now)
        members = self._members_of(message, now)
        if members:
            by_name = dict.fromkeys(members)
            self._enter_epoch(_EpochKey(message.generation, message.rendezvous, by_name))
            timeout_s = message.phase_timeout_s
            self._broadcast = _Broadcast(
                message=message,
                epoch=self.epoch,
                members=by_name,
                started_s=now,
                deadline_s=now + self._timeout_s,
                phase_timeout_s=timeout_s if 0 < timeout_s < self._timeout_s else self._timeout_s,
            )
        plan = PublishPlan(generation=message.generation, version=message.version, epoch=self.epoch, members=members)
        return plan, {name: self._update(message, members, place) for place, name in enumerate(members)}

    def _enter_epoch(self, key: _EpochKey) -> None:
        if self._epoch_key is None or key != self._epoch_key or list(key.members) != list(self._epoch_key.members):
            self.epoch += 1
            self._epoch_key = key

    def _update(self, message: Publish, members: list[str], member: int) -> UpdateWeights:
        return UpdateWeights(
            generation=message.generation,
            version=message.version,
            epoch=self.epoch,
            member=member,
            num_members=len(members),
            rendezvous=message.rendezvous,
            manifest=message.manifest,
            phase_timeout_s=message.phase_timeout_s,
        )

    def _interrupt(self, broadcast: _Broadcast, message: Publish, now: float) -> None:
        """`message` came before the result of `broadcast`.

        The learner never saw these acknowledgements, so it has not compared the checksums.
        """
        for name in broadcast.applied.keys() & self._holdings.keys():
            self._holdings[name].cordoned = True
            self._note(name)
        if message.given_up == broadcast.epoch:  # false when a Publish came twice because its plan was lost
            broadcast.give_up(now)
            self._cordon_failed(broadcast, now)

    def _members_of(self, message: Publish, now: float) -> list[str]:
        """The actors that need these weights; if all of them are suspects, the one with the fewest errors."""
        needing = {
            name: holding.num_errors
            for name, holding in self._holdings.items()
            if now >= holding.excluded_until_s
            and (holding.cordoned or holding.generation != message.generation or holding.version < message.version)
        }
        trusted = [name for name, num_errors in needing.items() if num_errors < SUSPICIOUS]
        if trusted:
            return trusted
        return sorted(needing, key=needing.__getitem__)[:1]

    def applied(self, name: str, message: WeightsApplied) -> None:
        """A member answers. After the end of its broadcast an answer only ends the exclusion of an absent actor."""
        holding, broadcast = self._holdings.get(name), self._broadcast
        if holding is None:
            return  # it is leaving
        current = broadcast is not None and broadcast.epoch == message.epoch and name in broadcast.members
        if broadcast is None or not current or broadcast.message.version != message.version:
            holding.excluded_until_s = 0.0
            return
        if name in broadcast.applied or name in broadcast.failed:
            return
        if message.error:
            broadcast.failed[name] = message.error
            holding.num_errors += 1
            return
        broadcast.applied[name] = message.checksums
        holding.generation, holding.version = message.generation, message.version
        holding.cordoned, holding.excluded_until_s, holding.num_errors = False, 0.0, 0
        self._note(name)

    def try_finish(self, now: float) -> PublishResult | None:
        """The result of the broadcast under way, once every member has answered or is absent."""
        broadcast = self._broadcast
        if broadcast is None:
            return None
        broadcast.note_answers(now)
        if now >= broadcast.silent_until_s():
            broadcast.give_up(now)
        if not broadcast.is_over:
            return None
        self._broadcast = None
        self._ask_at_s = now + self._resync_interval_s
        self._cordon_failed(broadcast, now)
        return PublishResult(
            epoch=broadcast.epoch,
            version=broadcast.message.version,
            checksums=broadcast.applied,
            failed=broadcast.failed,
        )

    def _cordon_failed(self, broadcast: _Broadcast, now: float) -> None:
        """Cordon the members that failed. Exclude the absent ones and, if others got the weights, those with errors.

        When the broadcast reached no member, an error is most likely the fault of another one: a member that is gone breaks the
        broadcast for all.
        """
        if not broadcast.failed:
            return
        self._epoch_key = None
        for name in broadcast.failed.keys() & self._holdings.keys():
            holding = self._holdings[name]
            holding.cordoned = True
            self._note(name)
            if name in broadcast.absent:
                holding.excluded_until_s = now + self._timeout_s
            elif broadcast.applied or (len(broadcast.members) == 1 and holding.num_errors >= SUSPICIOUS):
                pause_s = self._resync_interval_s * 2 ** min(holding.num_errors, 10)
                holding.excluded_until_s = now + min(self._timeout_s, pause_s)

    def cordon(self, names: list[str]) -> dict[str, int]:
        """The learner found that these actors received other weights than it sent: they hold nothing now.

        Returns those of them that live, with the version that they were thought to hold.
        """
        living = {name: self._holdings[name].version for name in names if name in self._holdings}
        for name in living:
            self._holdings[name] = Holding(cordoned=True)
            self._note(name)
            self._end_epoch_of(name)
        return living

    def lacking(self, generation: int, version: int) -> list[str]:
        """Living actors that hold no weights of this generation, or older ones than `version` (-1: any version will do)."""
        return self._held.lacking(generation, version)

    def should_ask(self, generation: int, version: int, now: float) -> str:
        """Why the learner must be asked to publish now; empty when it need not be. A reason starts the next interval.

        `version`: what actors must hold at least; -1 when any version of the generation will do.
        """
        if self._broadcast is not None or now < self._ask_at_s:
            return ""
        lacking = [name for name in self.lacking(generation, version) if now >= self._holdings[name].excluded_until_s]
        if not lacking:
            return ""
        self._ask_at_s = now + max(self._resync_interval_s, self._timeout_s / 4)
        return f"{names_text(lacking)} lack weights of generation {generation}"
