"""A simulated learner: it crashes, loses checkpoints, changes stages and ends early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prolong.common import messages as m
from prolong.common.types import Batch, Manifest, Rendezvous, StepEvidence

from .audit import Violation
from .client import Client
from .pulling import Snapshot, source_of

if TYPE_CHECKING:
    from .world import World

MANIFEST = Manifest(buckets=[])
NOWHERE = Rendezvous(transport="collective", address=b"")
RESULT_S = 30.0  # on its own clock; a broadcast without a result after this time is given up
TRIES = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state that a learner starts from."""

    version: int = 0
    generation: int = -1
    stage: int = 0
    stage_began: int = 0  # version


class Learner(Client):
    """Says what the learner's batch source and its weight sender say, without a model."""

    role = m.Role.learner

    def __init__(self, world: World, life: int, saved: list[Checkpoint]) -> None:
        start = saved[-1] if saved else Checkpoint()
        self.version, self.first_generation = start.version, start.generation
        self.stage, self.stage_began = start.stage, start.stage_began
        self.saved = saved  # oldest first
        self.generation = -1  # of the last Welcome
        self.finishing = self.busy = False
        self.asked = -1  # version of the batch that it waits for
        self.asked_s = self.stepped_s = world.now
        self.waited_s = self.age = 0.0  # of the batch that it trains
        self.request: tuple[int, int] | None = None  # version that is being published, tries
        self.epoch = -1  # whose result it waits for
        self.num_pullers = 0
        self.encoded: Snapshot | None = None  # what can be pulled
        self.encoding = False
        world.judge.learner_started(start.version)
        super().__init__(world, "learner", life)

    def hello(self) -> m.Hello:
        about = {"version": self.version, "generation": self.first_generation, "stage": self.stage}
        return self.greeting(**about, transport="pull" if self.world.plan.all_pull else "collective")

    def welcomed(self, welcome: m.Welcome) -> None:
        if self.encoded is not None:
            self.later(0.0, self.offer)
        if welcome.generation == self.generation:
            return  # the session itself sends questions without an answer again
        self.world.forks += welcome.generation not in (1, self.first_generation)
        self.generation, self.epoch = welcome.generation, -1
        self.publish()
        if self.finishing or self.version == self.world.plan.last:
            self.finish()
        elif not self.busy:
            self.take()

    def obey(self, message: Any) -> None:
        match message:
            case m.BatchReady():
                self.train(message.batch)
            case m.PublishPlan():
                self.serve(message)
            case m.PublishResult():
                if message.epoch == self.epoch:
                    self.settle(failed=bool(message.failed))
            case m.SyncRequested():
                if self.request is None:
                    self.publish()
                self.offer()
            case m.WeightReaders():
                self.num_pullers = message.num_pullers
                self.encode()
            case m.Finished():
                self.world.over = True

    # --- weights ----------------------------------------------------------------------------------

    def publish(self, tries: int = 1, given_up: int = -1) -> None:
        if self.world.plan.all_pull:
            return
        self.request, self.epoch = (self.version, tries), -1
        step = {"generation": self.generation, "version": self.version}
        self.say(m.Publish(**step, rendezvous=NOWHERE, manifest=MANIFEST, given_up=given_up))

    def serve(self, plan: m.PublishPlan) -> None:
        if self.request is None or plan.version != self.request[0]:
            return
        if not plan.members:
            self.settle(failed=False)
            return
        self.epoch = plan.epoch
        if self.world.plan.link_s.keys() & plan.members:
            raise Violation(f"pullers are in a broadcast: {plan.members}")
        self.later(RESULT_S, self.give_up, plan.epoch, self.request)

    def give_up(self, epoch: int, request: tuple[int, int]) -> None:
        if (epoch, request) == (self.epoch, self.request):
            self.publish(request[1], given_up=epoch)

    def settle(self, *, failed: bool) -> None:
        assert self.request is not None
        (version, tries), self.request, self.epoch = self.request, None, -1
        if version != self.version:
            self.publish()
        elif failed and tries < TRIES:
            self.publish(tries + 1)

    def encode(self) -> None:
        """The encoder's thread takes the newest version, if anybody pulls."""
        newest = Snapshot(self.life, self.version)
        if self.num_pullers and not self.encoding and self.encoded != newest:
            self.encoding = True
            self.later(self.world.soon(self.world.plan.encode_s), self.encode_ended, newest)

    def encode_ended(self, newest: Snapshot) -> None:
        self.encoding, self.encoded = False, newest
        self.offer()
        self.encode()

    def offer(self) -> None:
        if self.encoded is None:
            return
        self.say(
            m.Offer(
                generation=self.generation,
                version=self.encoded.version,
                manifest=MANIFEST,
                checksums=self.encoded.checksums,
                catalog=self.encoded.catalog,
                source=source_of(self),
            )
        )

    def snapshot(self) -> Snapshot | None:
        return self.encoded

    # --- steps ------------------------------------------------------------------------------------

    def take(self) -> None:
        self.asked, self.asked_s = self.version, self.world.now
        self.say(m.TakeBatch(generation=self.generation, version=self.version))

    def train(self, batch: Batch) -> None:
        if batch.generation != self.generation or batch.version != self.asked:
            return  # the question was sent again after a reconnect, and answered twice
        self.asked, self.busy = -1, True
        world, plan = self.world, self.world.plan
        world.judge.trains(batch, self.version, self.generation)
        self.waited_s, self.age = world.now - self.asked_s, batch.metrics["buffer/staleness_mean"]
        if world.chance(plan.resets):
            world.at(world.soon(plan.train_s), world.request_reset)
        self.later(world.soon(plan.train_s), self.stepped)

    def stepped(self) -> None:
        plan = self.world.plan
        self.version, self.busy = self.version + 1, False
        if self.stage + 1 < len(plan.stages) and self.version - self.stage_began >= plan.stages[self.stage].steps:
            self.stage, self.stage_began = self.stage + 1, self.version
        evidence = self.evidence()
        self.say(m.StepDone(generation=self.generation, version=self.version, stage=self.stage, evidence=evidence))
        if self.request is None:
            self.publish()
        self.encode()
        if self.version % plan.checkpoint == 0 or self.version == plan.last:
            saved = Checkpoint(self.version, self.generation, self.stage, self.stage_began)
            self.saved = [*(kept for kept in self.saved if kept.version < self.version), saved][-plan.keep :]
            self.say(m.CheckpointSaved(generation=self.generation, version=self.version))
        if self.version == plan.last:
            self.finish()
        else:
            self.take()

    def evidence(self) -> StepEvidence:
        step_s, self.stepped_s = self.world.now - self.stepped_s, self.world.now
        ess = 1.0 - min(0.9, self.world.plan.drift * self.age)
        return StepEvidence(ess=ess, kl=0.0, wait_s=self.waited_s, step_s=step_s)

    def finish(self) -> None:
        self.finishing = True
        self.say(m.Finish(generation=self.generation, version=self.version))

    def start_again(self) -> None:
        """Start from the newest checkpoint, an older one, or none."""
        world = self.world
        world.learner_restarts += 1
        num_saved = len(self.saved)
        found = {"older": max(num_saved - 1, 1), "none": 0}.get(world.learner_finds, num_saved)
        world.learner_finds = ""
        world.learner = Learner(world, self.life + 1, self.saved[:found])
