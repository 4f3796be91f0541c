"""Which actor holds which weights, and who takes part in the next broadcast.

    Publish -> plan: members, epoch      UpdateWeights -> each member      WeightsApplied -> ... -> PublishResult

An epoch is one process group: the learner and a fixed list of actors. Another list, or a member that failed, makes another one.
An actor that failed or was late is cordoned: no tickets, until it acknowledged weights again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.messages import Publish, PublishPlan, PublishResult, UpdateWeights, WeightsApplied


@dataclass(slots=True)
class Holding:
    """The weights of one living actor."""

    generation: int = -1
    version: int = -1  # last acknowledged; -1: none, or not to be trusted
    cordoned: bool = False
    absent_from: tuple[int, int] | None = None  # (generation, version) whose publish it missed: left out of the retry


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
    applied: dict[str, list[int]] = field(default_factory=dict)  # name -> checksums
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    absent: set[str] = field(default_factory=set)  # of `failed`: gave no answer

    @property
    def done(self) -> bool:
        return len(self.applied) + len(self.failed) == len(self.members)


class Membership:
    """The weights plane as the buffer sees it. Bytes never pass here."""

    def __init__(self, *, timeout_s: float, patience_s: float) -> None:
        """`timeout_s`: of one publish. `patience_s`: how long the learner is left in peace before it is asked for one."""
        self.epoch = 0
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._holdings: dict[str, Holding] = {}
        self._group: _Group | None = None  # of the current epoch; None when it cannot be used again
        self._publishing: _Publishing | None = None
        self._ask_at_s = 0.0  # not before this is the learner asked to publish again

    def join(self, name: str) -> None:
        """An actor (re)started: it holds nothing."""
        self._holdings[name] = Holding()
        self._break_epoch_of(name)

    def leave(self, name: str) -> None:
        """An actor is gone."""
        del self._holdings[name]
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
        self._ask_at_s = now + self._patience_s

    def version_of(self, name: str, generation: int) -> int | None:
        """The version that an actor may generate with, or None."""
        holding = self._holdings.get(name)
        if holding is None or holding.cordoned or holding.generation != generation or holding.version < 0:
            return None
        return holding.version

    def is_cordoned(self, name: str) -> bool:
        """Whether an actor gets no tickets because weights did not reach it."""
        return self._holdings[name].cordoned

    def publish(self, message: Publish, now: float) -> tuple[PublishPlan, dict[str, UpdateWeights]]:
        """Plan a broadcast: (the learner's plan, each member's part). An earlier one that is still under way is given up."""
        stamp = (message.generation, message.version)
        members = [name for name, holding in self._holdings.items() if self._needs(holding, stamp)]
        if not members:
            self._publishing = None
            return PublishPlan(epoch=self.epoch, version=message.version, members=[]), {}
        group = _Group(message.generation, message.store_host, message.store_port, members)
        if group != self._group or self._publishing is not None:
            self.epoch += 1
            self._group = group
        self._publishing = _Publishing(message=message, epoch=self.epoch, members=members, deadline_s=now + self._timeout_s)
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
            )
            for rank, name in enumerate(members, start=1)
        }

    @staticmethod
    def _needs(holding: Holding, stamp: tuple[int, int]) -> bool:
        if holding.absent_from == stamp:
            return False
        return holding.cordoned or holding.generation != stamp[0] or holding.version < stamp[1]

    def applied(self, name: str, message: WeightsApplied) -> None:
        """A member answers. Answers to a broadcast that is over change nothing but that the actor is asked again."""
        holding, publishing = self._holdings[name], self._publishing
        current = publishing is not None and publishing.epoch == message.epoch and name in publishing.members
        if publishing is None or not current or publishing.message.version != message.version:
            holding.absent_from = None
            return
        if name in publishing.applied or name in publishing.failed:
            return
        if message.error:
            publishing.failed[name] = message.error
            return
        publishing.applied[name] = message.checksums
        holding.generation, holding.version = message.generation, message.version
        holding.cordoned, holding.absent_from = False, None

    def try_finish(self, now: float) -> PublishResult | None:
        """The result of the broadcast under way, once everybody answered or its deadline passed."""
        publishing = self._publishing
        if publishing is None:
            return None
        if now >= publishing.deadline_s:
            for name in publishing.members:
                if name not in publishing.applied and name not in publishing.failed:
                    publishing.failed[name] = f"no answer within {self._timeout_s:g} s"
                    publishing.absent.add(name)
        if not publishing.done:
            return None
        self._publishing = None
        self._ask_at_s = now + self._patience_s
        self._cordon_failed(publishing)
        return PublishResult(
            epoch=publishing.epoch,
            version=publishing.message.version,
            checksums=publishing.applied,
            failed=publishing.failed,
        )

    def _cordon_failed(self, publishing: _Publishing) -> None:
        """Who gave no answer is left out of the retry; who answered with an error also, if the broadcast reached others.

        When it reached nobody, an error is most likely that of another member: one that is gone breaks the broadcast of all.
        """
        if not publishing.failed:
            return
        self._group = None
        stamp = (publishing.message.generation, publishing.message.version)
        for name in publishing.failed:
            holding = self._holdings.get(name)
            if holding is None:
                continue
            holding.cordoned = True
            if name in publishing.absent or publishing.applied:
                holding.absent_from = stamp

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
        """Why the learner must be asked to publish now; empty when it need not. Asks at most once per patience.

        `version`: what actors must hold, at least; -1 when anything of the generation will do.
        """
        lacking = self.lacking(generation, version)
        if not lacking or self._publishing is not None or now < self._ask_at_s:
            return ""
        self._ask_at_s = now + max(self._patience_s, self._timeout_s / 4)
        for name in lacking:
            self._holdings[name].absent_from = None
        return f"{', '.join(lacking)} lack weights of generation {generation}"
