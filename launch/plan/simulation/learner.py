"""A simulated learner: it waits for batches, takes steps, publishes versions and reports checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....common.message_kinds import BufferMessage
from ....common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    CheckpointSaved,
    FromClient,
    Heartbeat,
    Hello,
    Offer,
    Publish,
    PublishResult,
    Refused,
    Role,
    StepDone,
    SyncRequested,
    TakeBatch,
    Welcome,
)
from ....common.types import PULL, Batch, Manifest, Rendezvous, StepEvidence, WeightSource
from .actor import TOKENIZER
from .cluster import Cluster
from .event_queue import EventQueue
from .result import Recorder

LEARNER = b"learner"
RETRY_S = 1.0
_EMPTY = Manifest(buckets=[])
_SOURCE = WeightSource(endpoint="tcp://learner:1")
_NOWHERE = Rendezvous(transport="collective", address=b"")


class SimulatedLearner:
    """The one learner. Publishing overlaps the next batch's wait and step, as in the real one."""

    def __init__(
        self,
        cluster: Cluster,
        events: EventQueue,
        send: Callable[[bytes, FromClient], None],
        recorder: Recorder,
        *,
        steps: int,
        checkpoint_every: int,
        heartbeat_s: float,
        seed: int,
    ) -> None:
        self.version = 0
        self.is_alive = False  # it has greeted, and the buffer knows it
        self._died_s = math.inf  # when the process before this one did
        self._cluster, self._events, self._send, self._recorder = cluster, events, send, recorder
        self._steps, self._checkpoint_every, self._heartbeat_s = steps, checkpoint_every, heartbeat_s
        self._rng = np.random.default_rng([seed, 21])
        self._generation, self._saved = -1, 0
        self._life = 0
        self.is_publishing = False  # a broadcast is under way
        self._batch: Batch | None = None
        self.asked_s = 0.0  # when it asked for its batch
        self._waited_s = self._stepped_s = self._kl = 0.0  # of the batch; the end of the last step; of the batch
        self._speed, self._ends_s, self._end_number = 1.0, 0.0, 0  # of the step under way

    @property
    def is_done(self) -> bool:
        """Whether the last step is made."""
        return self.version >= self._steps

    @property
    def waits(self) -> bool:
        """Whether it waits for a batch."""
        return self.is_alive and self._batch is None and not self.is_done

    @property
    def trains(self) -> bool:
        """Whether a step is under way."""
        return self._batch is not None

    def greet(self, _: int = 0) -> None:
        """Start from the newest checkpoint."""
        self._life += 1
        greeting = Hello(
            role=Role.learner,
            name="learner",
            protocol=PROTOCOL_VERSION,
            tokenizer=TOKENIZER,
            host="learner",
            pid=self._life,
            version=self.version,
            generation=self._generation,
            transport=self._cluster.weights.transport,
        )
        self._send(LEARNER, greeting)

    def _greet_again(self, life: int) -> None:
        if life == self._life:
            self.greet()

    def _beat(self, life: int) -> None:
        if life == self._life:
            self._send(LEARNER, Heartbeat())
            self._events.after(self._heartbeat_s, self._beat, life)

    def die(self) -> None:
        """The step under way and those after the newest checkpoint are lost; `greet` starts the next process."""
        self._life += 1
        self._end_number += 1
        self.version, self._batch = self._saved, None
        self.is_publishing, self.is_alive = False, False
        self._died_s = self._events.now

    def hear(self, message: BufferMessage) -> None:
        """A message of the buffer. One that has died, or has yet to be let in, hears the answers to its greeting alone."""
        if not self.is_alive and not isinstance(message, Welcome | Refused):
            return
        match message:
            case Welcome():
                self.is_alive = True
                self._events.after(self._heartbeat_s, self._beat, self._life)
                self._recorder.waited("down", max(0.0, self._events.now - self._died_s))
                self._generation = message.generation
                self._publish()
                self._take()
            case BatchReady():
                self._train(message.batch)
            case PublishResult():
                self.is_publishing = False
                if message.version < self.version:
                    self._publish()
            case SyncRequested():
                self._publish()
            case Refused():
                # the buffer has not noticed yet that the one before is gone
                self._events.after(RETRY_S, self._greet_again, self._life)
            case _:
                pass

    def _take(self) -> None:
        self.asked_s = self._events.now
        self._send(LEARNER, TakeBatch(generation=self._generation, version=self.version))

    def _train(self, batch: Batch) -> None:
        device, self._batch = self._cluster.learner, batch
        tokens = sum(
            rollout.num_tokens + len(group.prompt.token_ids) // 4 for group in batch.groups for rollout in group.rollouts
        )
        self._waited_s = self._events.now - self.asked_s
        self._kl = device.drift * mean_square_age(batch) if device.drift else 0.0
        step_s = device.step_s(tokens)
        if device.spread > 0:
            step_s *= float(np.exp(device.spread * self._rng.standard_normal() - device.spread**2 / 2))
        self._recorder.batch(batch, self._events.now, waited_s=self._waited_s, step_s=step_s)
        self._expect_end(step_s / self._speed)

    def set_speed(self, speed: float) -> None:
        """Go on at this share of the device's speed."""
        left_s = (self._ends_s - self._events.now) * self._speed / speed
        self._speed = speed
        if self.trains:
            self._expect_end(left_s)

    def _expect_end(self, left_s: float) -> None:
        self._end_number += 1
        self._ends_s = self._events.now + left_s
        self._events.at(self._ends_s, self._end_step, self._end_number)

    def _end_step(self, number: int) -> None:
        if number != self._end_number:
            return
        self.version += 1
        self._batch = None
        self._send(LEARNER, StepDone(generation=self._generation, version=self.version, evidence=self._evidence()))
        self._publish()
        if self.version % self._checkpoint_every == 0:
            self._saved = self.version
            self._send(LEARNER, CheckpointSaved(generation=self._generation, version=self.version))
        self._recorder.step_done(self.version, self._events.now)
        if not self.is_done:
            self._take()

    def _evidence(self) -> StepEvidence:
        """What the step says of the staleness of its batch."""
        now, before_s = self._events.now, self._stepped_s
        self._stepped_s = now
        return StepEvidence(
            ess=math.exp(-2 * self._kl), kl=self._kl, wait_s=self._waited_s, step_s=max(now - before_s, self._waited_s)
        )

    def _publish(self) -> None:
        if self._cluster.weights.transport == PULL:
            self._offer()
            return
        if self.is_publishing:
            return  # the newest version follows when it is over
        self.is_publishing = True
        self._send(LEARNER, Publish(generation=self._generation, version=self.version, rendezvous=_NOWHERE, manifest=_EMPTY))

    def _offer(self) -> None:
        offer = Offer(
            generation=self._generation,
            version=self.version,
            manifest=_EMPTY,
            checksums=[],
            catalog=self.version.to_bytes(32, "big"),
            source=_SOURCE,
        )
        self._send(LEARNER, offer)


def mean_square_age(batch: Batch) -> float:
    """Of the tokens of a batch: the square of the versions between those that sampled them and the one that is trained."""
    squares = tokens = 0
    for group in batch.groups:
        for rollout in group.rollouts:
            for span in rollout.spans:
                tokens += span.end - span.start
                squares += (span.end - span.start) * (batch.version - span.version) ** 2
    return squares / max(tokens, 1)
