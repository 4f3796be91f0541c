"""Batches from a live buffer. Rank 0 holds the connection; the other ranks hold null objects and only keep in step."""

from __future__ import annotations

import os
import shlex
import socket
import threading
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from ...buffer.client.client import BufferClient
from ...buffer.client.inbox import Inbox
from ...common.config.run_files import run_paths
from ...common.config.sections import Config
from ...common.config.trees import largest_eta
from ...common.errors import DeadlineExceeded, LearnerStarved, ProlongError, RunStopped
from ...common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    CheckpointSaved,
    Finish,
    Finished,
    Hello,
    OfferNoted,
    PublishPlan,
    PublishResult,
    Role,
    Status,
    StepDone,
    SyncRequested,
    TakeBatch,
    WeightReaders,
)
from ...common.models import DTYPES
from ...common.tokenizer import Tokenizer
from ...common.transport.keys import load_client_keys
from ...common.types import Batch, StepEvidence
from ...common.weights.transports import broadcast_transport
from ..algorithm.samples import check_staleness
from ..model.policy import Policy
from ..ranks import Ranks
from ..weights.offering import WeightOffering
from ..weights.packer import WeightPacker
from ..weights.publisher import PackingPublisher, WeightCarrier
from ..weights.sender import WeightSender
from .handover import BatchHandover

CONNECTED = b"connected"  # rank 0 tells the other ranks


class WeightPublisher(Protocol):
    """Sends the weights of each version to the actors. The tensors may change after `publish`."""

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None: ...

    def metrics(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class RankClient(Protocol):
    """One rank's client of the buffer: the calls of `BatchSource` without their collective parts."""

    @property
    def generation(self) -> int: ...

    def take(self, version: int) -> Batch | None: ...

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None: ...

    def checkpoint_saved(self, version: int) -> None: ...

    def finish(self, version: int) -> Status | None: ...

    def open_weights(self, policy: Policy, device: torch.device) -> WeightPublisher: ...

    def close(self) -> None: ...


class LiveSource:
    """A `BatchSource` over a buffer."""

    def __init__(self, cfg: Config, ranks: Ranks, stop: threading.Event) -> None:
        """`stop` ends every wait for the buffer. Nothing is connected before `connect`."""
        self._cfg, self._ranks, self._stop = cfg, ranks, stop
        self._handover = BatchHandover(ranks, cfg.buffer.max_message_mb << 20)
        self._client: RankClient = NullClient()
        self._weights: WeightPublisher = NullPublisher()
        self._halted: ProlongError | None = None

    @property
    def ended(self) -> ProlongError | None:
        return self._handover.ended

    @property
    def generation(self) -> int:
        return self._client.generation

    def connect(self, version: int, generation: int, stage: int) -> None:
        answer = None
        if self._ranks.first:
            try:
                self._client = LearnerClient.connect(self._cfg, version, generation, stage, self._stop)
                answer = CONNECTED
            except RunStopped:
                if not self._stop.is_set():
                    raise  # the buffer said Stop
                answer = b""
        if self._ranks.broadcast_bytes(answer) != CONNECTED:
            raise RunStopped(f"told to stop before the buffer answered, nothing is lost; {resume_hint(self._cfg)}")

    def open_weights(self, policy: Policy, device: torch.device) -> None:
        self._weights = self._client.open_weights(policy, device)

    def take(self, version: int) -> Batch | None:
        return self._handover.take(lambda: self._read(version))

    def _read(self, version: int) -> Batch | None:
        if self._halted is not None:
            raise self._halted
        return self._client.take(version)

    def publish(self, version: int, policy: Policy) -> None:
        self._weights.publish(version, policy.full_parameters(DTYPES[self._cfg.model.dtype]))

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        self._client.step_done(version, stage, saves=saves, evidence=evidence)

    def halt(self, reason: ProlongError) -> None:
        self._halted = reason

    def checkpoint_saved(self, version: int) -> None:
        self._client.checkpoint_saved(version)

    def finish(self, version: int) -> Status | None:
        return self._client.finish(version)

    def metrics(self) -> dict[str, float]:
        return self._weights.metrics()

    def close(self) -> None:
        self._weights.close()
        self._client.close()


class LearnerClient:
    """Rank 0's client, connected."""

    def __init__(self, cfg: Config, hello: Hello, stop: threading.Event) -> None:
        """Makes the client and its inboxes; `connect` shakes hands."""
        self._cfg, self._stop = cfg, stop
        self._transport = broadcast_transport(cfg.weights)
        buffer = cfg.buffer
        self._client = BufferClient(buffer.address, hello, max_bytes=buffer.max_message_mb << 20, keys=buffer.keys)
        self._batches = self._client.inbox(BatchReady)
        self._readers: Inbox[WeightReaders | OfferNoted | SyncRequested]
        if self._transport is None:
            self._readers = self._client.inbox(WeightReaders, OfferNoted, SyncRequested)
        else:
            self._readers = self._client.inbox(WeightReaders, OfferNoted)
            self._plans = self._client.inbox(PublishPlan, PublishResult, SyncRequested)
        self._finished = self._client.inbox(Finished)

    @classmethod
    def connect(cls, cfg: Config, version: int, generation: int, stage: int, stop: threading.Event) -> LearnerClient:
        """Say Hello and wait for the buffer's answer. Raises: ModelError, HandshakeRefused, BufferUnreachable, RunStopped."""
        hello = Hello(
            role=Role.learner,
            name="learner",
            protocol=PROTOCOL_VERSION,
            tokenizer=Tokenizer.load(cfg.model.path).fingerprint,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version,
            generation=generation,
            stage=stage,
            transport=cfg.weights.transport,
        )
        client = cls(cfg, hello, stop)
        client._client.connect(cfg.learner.starve_s, stop)
        return client

    @property
    def generation(self) -> int:
        return self._client.generation

    def take(self, version: int) -> Batch | None:
        starve_s = self._cfg.learner.starve_s
        try:
            ready = self._client.ask(
                self._batches,
                lambda generation: TakeBatch(generation=generation, version=version),
                deadline_s=starve_s,
                stop=self._stop,
            )
        except DeadlineExceeded:
            raise LearnerStarved(
                f"no batch of version {version} within learner.starve_s = {starve_s:g} s; do actors run, and do they finish "
                "groups (prolong status)?"
            ) from None
        if ready is None:
            return None
        buffer, batch = self._cfg.buffer, ready.batch
        check_staleness(
            batch, version=version, generation=batch.generation, eta=largest_eta(buffer), straggler=buffer.straggler
        )
        return batch

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        done = StepDone(generation=self.generation, version=version, stage=stage, saves=saves, evidence=evidence)
        self._client.send(done)

    def checkpoint_saved(self, version: int) -> None:
        self._client.send(CheckpointSaved(generation=self.generation, version=version))

    def finish(self, version: int) -> Status | None:
        starve_s = self._cfg.learner.starve_s
        try:
            finished = self._client.ask(
                self._finished,
                lambda generation: Finish(generation=generation, version=version),
                deadline_s=starve_s,
                stop=self._stop,
            )
        except DeadlineExceeded:
            raise LearnerStarved(f"the last validation did not end within {starve_s:g} s") from None
        return None if finished is None else finished.status

    def open_weights(self, policy: Policy, device: torch.device) -> WeightPublisher:
        cfg = self._cfg.weights
        packer = WeightPacker(policy.full_shapes(DTYPES[self._cfg.model.dtype]), cfg.bucket_mb << 20, device)
        offering = WeightOffering(self._client, self._readers, packer, cfg, load_client_keys(self._cfg.buffer.keys))
        carriers: list[WeightCarrier] = [offering]
        if self._transport is not None:
            end = self._transport.open_learner_end(cfg, device)
            carriers.append(WeightSender(self._client, self._plans, end, packer, cfg, offering=offering))
        publisher = PackingPublisher(packer, carriers)
        publisher.start()
        return publisher

    def close(self) -> None:
        self._client.close()


class NullClient:
    """The client of a rank that does not talk to the buffer, and of rank 0 before `connect`."""

    generation = -1

    def take(self, version: int) -> Batch | None:
        return None

    def step_done(self, version: int, stage: int, *, saves: bool, evidence: StepEvidence) -> None:
        pass

    def checkpoint_saved(self, version: int) -> None:
        pass

    def finish(self, version: int) -> Status | None:
        return None

    def open_weights(self, policy: Policy, device: torch.device) -> WeightPublisher:
        return NullPublisher()

    def close(self) -> None:
        pass


class NullPublisher:
    """The publisher of a rank that sends no weights."""

    def publish(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Exhaust the tensors: gathering a sharded parameter needs every rank."""
        for _ in tensors:
            pass

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def resume_hint(cfg: Config) -> str:
    """The command that goes on with a run which was stopped."""
    return f"go on with: prolong learner --recipe {shlex.quote(str(run_paths(cfg).config))}"
