"""Rank 0's line to the buffer: handshake, batches, steps, weights, the end. On other ranks the same calls only keep in step."""

from __future__ import annotations

import os
import shlex
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from time import monotonic

import torch

from ...buffer.client.client import BufferClient, Inbox
from ...common.config.run_files import run_paths
from ...common.config.sections import Config
from ...common.errors import DeadlineExceeded, LearnerStarved, RunStopped
from ...common.messages import (
    PROTOCOL_VERSION,
    BatchReady,
    CheckpointSaved,
    Finish,
    Finished,
    Hello,
    PublishPlan,
    PublishResult,
    Role,
    Status,
    StepDone,
    SyncRequested,
)
from ...common.models import DTYPES
from ...common.tokenizer import Tokenizer
from ..model.policy import Policy
from ..ranks import Ranks
from ..weights.sender import WeightSender
from .feed import POLL_S, BatchFeed


class Link:
    """Build it, then `connect`, then `open_weights`; `feed` gives the batches."""

    def __init__(self, cfg: Config, ranks: Ranks, stop: threading.Event) -> None:
        """`stop` ends every wait for the buffer."""
        self._cfg, self._ranks, self._stop = cfg, ranks, stop
        self._client: BufferClient | None = None
        self._sender: WeightSender | None = None
        self._weights: Inbox[PublishPlan | PublishResult | SyncRequested] | None = None
        self._finished: Inbox[Finished] | None = None
        self.feed = BatchFeed(cfg, ranks, None, None, stop)

    def connect(self, version: int, generation: int, stage: int) -> None:
        """Say Hello. Blocks until there is a buffer, `learner.starve_s` at most.

        Other ranks wait with it. Raises, on every rank: RunStopped when `stop` is set first. On rank 0: ModelError (no
        tokenizer), HandshakeRefused, BufferUnreachable.
        """
        connected = self._ranks.first and self._connect(version, generation, stage)
        if not self._ranks.broadcast_bytes(b"connected" * connected if self._ranks.first else None):
            raise RunStopped(f"told to stop before the buffer answered, nothing is lost; {resume_hint(self._cfg)}")

    def _connect(self, version: int, generation: int, stage: int) -> bool:
        """Whether the buffer answered before `stop` was set."""
        hello = Hello(
            role=Role.learner,
            name="learner",
            protocol=PROTOCOL_VERSION,
            tokenizer=Tokenizer.load(self._cfg.model.path).fingerprint,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version,
            generation=generation,
            stage=stage,
        )
        cfg = self._cfg.buffer
        client = BufferClient(cfg.address, hello, max_bytes=cfg.max_message_mb << 20, keys=cfg.keys)
        batches = client.inbox(BatchReady)
        self._weights = client.inbox(PublishPlan, PublishResult, SyncRequested)
        self._finished = client.inbox(Finished)
        if not self._answered(client):
            return False
        self._client = client
        self.feed = BatchFeed(self._cfg, self._ranks, client, batches, self._stop)
        return True

    def _answered(self, client: BufferClient) -> bool:
        """Shake hands, in a thread: nothing but `close` ends that early."""
        with ThreadPoolExecutor(1, "connect") as executor:
            handshake = executor.submit(client.connect, self._cfg.learner.starve_s)
            while not self._stop.is_set() and not wait([handshake], POLL_S).done:
                pass
            if not handshake.done():
                client.close(0.0)
                return False
        handshake.result()
        return True

    @property
    def generation(self) -> int:
        """Of the timeline that the buffer keeps; -1 on ranks that do not talk to it."""
        return self.feed.generation if self._ranks.first else -1

    def open_weights(self, policy: Policy, device: torch.device) -> None:
        """Lay out the broadcast and open the store where actors meet."""
        if self._client is None or self._weights is None:
            return
        dtype = DTYPES[self._cfg.model.dtype]
        specs = [(name, dtype, parameter.shape) for name, parameter in policy.causal.named_parameters()]
        self._sender = WeightSender(self._client, self._weights, self._cfg.weights, specs, device)

    def publish(self, version: int, policy: Policy) -> None:
        """Send these weights to whoever lives; returns after the snapshot. Collective."""
        tensors = policy.full_parameters(DTYPES[self._cfg.model.dtype])
        if self._sender is not None:
            self._sender.publish(version, tensors)
        else:
            for _ in tensors:  # other ranks take part in gathering
                pass

    def step_done(self, version: int, stage: int) -> None:
        """`version` is made: its batch is trained, and the next belongs to `stage`. Collective: a signal to one rank is a
        signal to all, from here on."""
        if self._ranks.sum_(torch.tensor(float(self._stop.is_set()))) > 0:
            self._stop.set()
        if self._client is not None:
            self._client.send(StepDone(generation=self.generation, version=version, stage=stage))

    def checkpoint_saved(self, version: int) -> None:
        """`version` is durable."""
        if self._client is not None:
            self._client.send(CheckpointSaved(generation=self.generation, version=version))

    def finish(self, version: int) -> Status | None:
        """Say that `version` was the last, and wait for the last validation. None on other ranks, and when told to stop.

        Raises: LearnerStarved after `learner.starve_s`; BufferUnreachable, RunStopped.
        """
        if self._client is None or self._finished is None:
            return None
        deadline, asked = monotonic() + self._cfg.learner.starve_s, -1
        while not self._stop.is_set():
            if self.generation != asked:
                asked = self.generation
                self._client.send(Finish(generation=asked, version=version))
            try:
                return self._finished.take(POLL_S).status
            except DeadlineExceeded:
                if monotonic() > deadline:
                    raise LearnerStarved(f"the last validation did not end within {self._cfg.learner.starve_s:g} s") from None
        return None

    def metrics(self) -> dict[str, float]:
        """Of the weights plane."""
        return self._sender.metrics() if self._sender is not None else {}

    def close(self) -> None:
        """Leave the buffer; what was said before is delivered first."""
        if self._sender is not None:
            self._sender.close()
        if self._client is not None:
            self._client.close()


def resume_hint(cfg: Config) -> str:
    """The command that goes on with a run which was stopped."""
    return f"go on with: prolong learner --recipe {shlex.quote(str(run_paths(cfg).config))}"
