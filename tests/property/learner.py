"""A learner that crashes, forgets, changes stages and ends early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prolong.common import messages as m
from prolong.common.types import Batch, Manifest

from .clients import Client

if TYPE_CHECKING:
    from .simulator import World

MANIFEST = Manifest(buckets=[])


@dataclass(frozen=True)
class Checkpoint:
    """What a learner starts from."""

    version: int = 0
    generation: int = -1
    stage: int = 0
    stage_began: int = 0  # version


class Learner(Client):
    role = m.Role.learner

    def __init__(self, world: World, identity: bytes, checkpoint: Checkpoint | None = None) -> None:
        start = checkpoint or Checkpoint()
        self.version, self.generation = start.version, start.generation
        self.stage, self.stage_began = start.stage, start.stage_began
        self.saved: list[Checkpoint] = []  # oldest first
        self.publishing = self.finishing = False
        self.again = self.busy = False
        self.asked = -1  # version of the batch that it waits for
        super().__init__(world, identity, "learner", int(identity.split(b"-")[1]))

    def greet(self) -> None:
        self.say(self.hello(version=self.version, generation=self.generation, stage=self.stage))

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
        elif self.version == self.world.plan.last:
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
        if world.chance(plan.resets):
            world.at(world.soon(plan.train_s), world.request_reset)
        world.at(world.soon(plan.train_s), self.stepped)

    def stepped(self) -> None:
        if not self.alive:
            return
        plan = self.world.plan
        self.version, self.busy = self.version + 1, False
        if self.stage + 1 < len(plan.stages) and self.version - self.stage_began >= plan.stages[self.stage].steps:
            self.stage, self.stage_began = self.stage + 1, self.version
        self.say(m.StepDone(generation=self.generation, version=self.version, stage=self.stage))
        self.publish()
        if self.version % plan.checkpoint == 0 or self.version == plan.last:
            saved = Checkpoint(self.version, self.generation, self.stage, self.stage_began)
            self.saved = [*self.saved, saved][-plan.keep :]
            self.say(m.CheckpointSaved(generation=self.generation, version=self.version))
        if self.version == plan.last:
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
        self.world.learner = Learner(self.world, b"learner-%d" % (self.pid + 1), saved[-1] if saved else None)
        self.world.learner.saved = list(saved)
