"""An actor and a learner that sleep instead of working, on the real buffer: every loss of time is that of the pipeline.

The actor works on `capacity` groups at once, each for `group_s`; the learner sleeps `train_s` per step. They speak the real
protocol to a real buffer process; only tokens and weights are made up. Bound on the period of a step:

    max(B group_s / capacity, train_s, (group_s + train_s) / (eta + 1))
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import numpy as np

from ..buffer.client.client import BufferClient
from ..common.config.sections import Config
from ..common.errors import BufferUnreachable, RunStopped
from ..common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    Finish,
    Finished,
    GroupResult,
    Hello,
    Publish,
    PublishPlan,
    PublishResult,
    Role,
    StepDone,
    SyncRequested,
    TakeBatch,
    Tickets,
    UpdateWeights,
    WeightsApplied,
)
from ..common.types import (
    FinishReason,
    Group,
    Manifest,
    Rendezvous,
    Rollout,
    Ticket,
    Verdict,
    VerdictStatus,
    VersionSpan,
)

SLEEPER_TIMEOUT_S = 60.0
EMPTY = Manifest(buckets=[])
NO_RENDEZVOUS = Rendezvous(transport="collective", address=b"")


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """The speeds of both sides."""

    capacity: int  # groups at once
    group_s: float
    train_s: float

    def period_bound_s(self, batch_groups: int, eta: int) -> float:
        """The shortest period that any schedule within staleness eta can reach."""
        return max(self.group_s * batch_groups / self.capacity, self.train_s, (self.group_s + self.train_s) / (eta + 1))


def hello(role: Role, tokenizer: str, **fields) -> Hello:
    return Hello(
        role=role,
        name=str(role),
        protocol=PROTOCOL_VERSION,
        tokenizer=tokenizer,
        host=socket.gethostname(),
        pid=threading.get_ident(),
        **fields,
    )


def client(cfg: Config, greeting: Hello) -> BufferClient:
    return BufferClient(cfg.buffer.address, greeting, max_bytes=cfg.buffer.max_message_mb << 20)


def made_up_group(ticket: Ticket, version: int) -> Group:
    """A group of n rollouts of 32 tokens, of which half are right."""
    tokens = np.zeros(32, dtype="<i4").tobytes()
    rollouts = [
        Rollout(
            token_ids=tokens,
            behaviour_logprobs=tokens,
            spans=[VersionSpan(version=version, start=0, end=32)],
            finish_reason=FinishReason.stop,
            verdict=Verdict(reward=float(i % 2), status=VerdictStatus.ok, verifier="sleeper", seconds=0.0),
        )
        for i in range(ticket.sampling.n)
    ]
    return Group.for_ticket(ticket, rollouts, actor="actor", seconds=0.0)


async def sleeping_actor(cfg: Config, devices: Devices, tokenizer: str) -> None:
    """Take tickets and weight updates until the buffer stops the actor."""
    peer = client(cfg, hello(Role.actor, tokenizer, capacity=devices.capacity * cfg.sampling.n))
    inbox = peer.inbox(Tickets, UpdateWeights)
    peer.connect(SLEEPER_TIMEOUT_S)
    version, tasks = -1, set()

    async def generate(ticket: Ticket) -> None:
        held = version
        await asyncio.sleep(devices.group_s)
        peer.send(GroupResult(group=made_up_group(ticket, held)))

    try:
        while True:
            message = await inbox.take_async(SLEEPER_TIMEOUT_S)
            if isinstance(message, UpdateWeights):
                version = message.version
                applied = WeightsApplied(
                    generation=message.generation, version=version, epoch=message.epoch, checksums=[], seconds=0.0
                )
                peer.send(applied)
            else:
                for ticket in message.tickets:
                    task = asyncio.create_task(generate(ticket))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
    except RunStopped:
        pass
    finally:
        peer.close()


@contextmanager
def actor_in_a_thread(cfg: Config, devices: Devices, tokenizer: str) -> Iterator[None]:
    """A sleeping actor during the block, and until the run has ended for it too: nothing of it meets what comes next.

    Raises: what ended the actor, if that was not the end of the run.
    """
    with ThreadPoolExecutor(1) as executor:
        actor = executor.submit(asyncio.run, sleeping_actor(cfg, devices, tokenizer))
        yield
        actor.result(SLEEPER_TIMEOUT_S)


class SleepingLearner:
    """Takes batches, sleeps, and publishes empty weights under a new version. `walls`: the end of each step, monotonic."""

    def __init__(self, cfg: Config, devices: Devices, tokenizer: str) -> None:
        self.cfg, self.devices = cfg, devices
        self.peer = client(cfg, hello(Role.learner, tokenizer, version=0))
        self.batches = self.peer.inbox(BatchReady, Finished)
        self.weights = self.peer.inbox(PublishPlan, PublishResult, SyncRequested)
        self.generation = self.peer.connect(SLEEPER_TIMEOUT_S).generation
        self.version = 0
        self.walls: list[float] = []

    def publish(self) -> None:
        self.peer.send(Publish(generation=self.generation, version=self.version, rendezvous=NO_RENDEZVOUS, manifest=EMPTY))

    def weights_thread(self) -> None:
        """Publish again whenever an actor asks, until the run ends."""
        try:
            while True:
                if isinstance(self.weights.take(SLEEPER_TIMEOUT_S), SyncRequested):
                    self.publish()
        except (RunStopped, BufferUnreachable):  # the run is over, or run() closed the connection
            return

    def run(self) -> list[float]:
        thread = threading.Thread(target=self.weights_thread, daemon=True)
        thread.start()
        self.publish()
        pause = threading.Event()
        while self.version < self.cfg.run.steps:
            self.peer.send(TakeBatch(generation=self.generation, version=self.version))
            self.batches.take(SLEEPER_TIMEOUT_S)
            pause.wait(self.devices.train_s)
            self.version += 1
            self.peer.send(StepDone(generation=self.generation, version=self.version))
            self.publish()
            self.walls.append(monotonic())
        self.peer.send(Finish(generation=self.generation, version=self.version))
        self.batches.take(SLEEPER_TIMEOUT_S)
        self.peer.close()
        thread.join(SLEEPER_TIMEOUT_S)
        return self.walls
