"""A scripted actor and learner over real clients: one answers every ticket, the other takes batches and trains nothing."""

from __future__ import annotations

import threading
from typing import Any

from prolong.buffer.client.client import BufferClient
from prolong.common.config.sections import Config
from prolong.common.errors import BufferUnreachable, DeadlineExceeded, RunStopped
from prolong.common.messages import (
    BatchReady,
    Finish,
    Finished,
    GroupResult,
    PublishPlan,
    PublishResult,
    Role,
    Status,
    StepDone,
    SyncRequested,
    TakeBatch,
    Tickets,
    UpdateWeights,
)
from prolong.common.types import Batch, Ticket

from tests.support.buffer_process import answer, apply, make_client, publish


class ScriptedActor(threading.Thread):
    """Answers every ticket at once, until the run stops."""

    def __init__(self, client: BufferClient) -> None:
        super().__init__(daemon=True)
        self.client, self.inbox = client, client.inbox(Tickets, UpdateWeights)
        self.groups = 0
        self.tickets: list[Ticket] = []
        self.ended: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                message = self.inbox.take(20.0)
                if isinstance(message, UpdateWeights):
                    apply(self.client, message)
                    continue
                self.tickets += message.tickets
                for ticket in message.tickets:
                    self.client.send(GroupResult(group=answer(ticket, "actor-0")))
                    self.groups += 1
        except (RunStopped, BufferUnreachable, DeadlineExceeded) as error:
            self.ended = error


class ScriptedLearner:
    """Publishes empty weights and trains nothing."""

    def __init__(self, client: BufferClient) -> None:
        self.client = client
        self.batches = client.inbox(BatchReady, Finished)
        self.weights = client.inbox(PublishPlan, PublishResult)
        self.syncs = client.inbox(SyncRequested)
        self.welcome = client.connect(60.0)

    def publish(self, version: int) -> PublishResult:
        return publish(self.client, self.weights, self.welcome.generation, version)

    def step(self, version: int, timeout_s: float = 60.0) -> Batch:
        """Take the batch of `version`, make version + 1."""
        self.client.send(TakeBatch(generation=self.welcome.generation, version=version))
        batch = self.batch(timeout_s)
        self.client.send(StepDone(generation=self.welcome.generation, version=version + 1))
        return batch

    def batch(self, timeout_s: float = 60.0) -> Batch:
        """The batch that was asked for."""
        ready = self.batches.take(timeout_s)
        assert isinstance(ready, BatchReady)
        return ready.batch

    def finish(self, version: int, timeout_s: float = 60.0) -> Status:
        """End the run at `version`; returns the last status."""
        self.client.send(Finish(generation=self.welcome.generation, version=version))
        finished = self.batches.take(timeout_s)
        assert isinstance(finished, Finished)
        return finished.status


def start_actor(cfg: Config, address: str, name: str = "actor-0") -> ScriptedActor:
    actor = ScriptedActor(make_client(cfg, address, Role.actor, name))
    actor.client.connect(60.0)
    actor.start()
    return actor


def start_learner(cfg: Config, address: str, **changes: Any) -> ScriptedLearner:
    return ScriptedLearner(make_client(cfg, address, Role.learner, "learner", **changes))
