"""A learner that sleeps instead of training, and records its steps as the real one does: for runs whose causes are known.

A step takes base_s + per_token_s for each token of its batch. Versions without weights are broadcast one after the other,
beside the steps. `python -m prolong.bench.sleeping_learner` is the learner of one run.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time

import msgspec

from ..buffer.client.client import BufferClient
from ..common.config.run_files import load_config, run_paths
from ..common.config.sections import Config
from ..common.errors import BufferUnreachable, RunStopped
from ..common.messages import (
    BatchReady,
    Finish,
    Finished,
    Publish,
    PublishPlan,
    PublishResult,
    Role,
    StepDone,
    SyncRequested,
    TakeBatch,
)
from ..common.metrics import MetricsWriter
from ..common.tokenizer import Tokenizer
from ..common.types import Batch, StepEvidence
from .sleepers import EMPTY, NO_RENDEZVOUS, client, hello

TIMEOUT_S = 300.0


class LearnerSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes."""

    base_s: float
    per_token_s: float


class SleepingBroadcasts:
    """The versions on their way: the newest one begins when the one before has arrived. Lives in a thread of its own."""

    def __init__(self, peer: BufferClient) -> None:
        """`peer` is not connected yet."""
        self._peer, self._generation = peer, -1
        self._inbox = peer.inbox(PublishPlan, PublishResult, SyncRequested)
        self._lock = threading.Lock()
        self._version, self._under_way, self._began_s = -1, False, 0.0
        self.seconds = 0.0  # of the last one

    def begin(self, generation: int) -> None:
        """Publish the first version. `peer` is connected."""
        self._generation = generation
        threading.Thread(target=self._listen, daemon=True).start()
        self.publish(0)

    def publish(self, version: int) -> None:
        """Send this version, as soon as no other is under way."""
        with self._lock:
            self._version = version
            if not self._under_way:
                self._begin()

    def _begin(self) -> None:
        self._under_way, self._began_s = True, perf_counter()
        self._peer.send(Publish(generation=self._generation, version=self._version, rendezvous=NO_RENDEZVOUS, manifest=EMPTY))

    def _listen(self) -> None:
        try:
            while True:
                message = self._inbox.take(TIMEOUT_S)
                with self._lock:
                    self._hear(message)
        except (RunStopped, BufferUnreachable):  # the run is over
            return

    def _hear(self, message: PublishPlan | PublishResult | SyncRequested) -> None:
        if isinstance(message, SyncRequested):
            if not self._under_way:
                self._begin()
        elif isinstance(message, PublishResult):
            self._under_way, self.seconds = False, perf_counter() - self._began_s
            if message.version < self._version:
                self._begin()
        elif not message.members:
            self._under_way = False


def sleep_as_learner(cfg: Config, speed: LearnerSpeed) -> None:
    """Make all steps of the run."""
    peer = client(cfg, hello(Role.learner, Tokenizer.load(cfg.model.path).fingerprint, version=0))
    batches = peer.inbox(BatchReady, Finished)
    broadcasts, pause = SleepingBroadcasts(peer), threading.Event()
    generation = peer.connect(TIMEOUT_S).generation
    broadcasts.begin(generation)
    with MetricsWriter(run_paths(cfg).folder, tensorboard=False) as metrics:
        began = since = perf_counter()
        cpu_s = process_time()
        for version in range(cfg.run.steps):
            asked = perf_counter()
            peer.send(TakeBatch(generation=generation, version=version))
            ready = batches.take(TIMEOUT_S)
            assert isinstance(ready, BatchReady), f"{ready} before the last step"
            waited_s, started = perf_counter() - asked, perf_counter()
            numbers = numbers_of(ready.batch)
            pause.wait(max(started + speed.base_s + speed.per_token_s * numbers["learner/tokens"] - perf_counter(), 0.0))
            numbers |= {"learner/wait_s": waited_s, "learner/compute_s": perf_counter() - started}
            evidence = StepEvidence(ess=1.0, kl=0.0, wait_s=waited_s, step_s=perf_counter() - since)
            peer.send(StepDone(generation=generation, version=version + 1, evidence=evidence))
            broadcasts.publish(version + 1)
            step_s, since = perf_counter() - since, perf_counter()
            before_s, cpu_s = cpu_s, process_time()
            numbers |= {"learner/step_s": step_s, "learner/cpu_s": cpu_s - before_s, "wall_s": since - began}
            metrics.write(version + 1, numbers | {"weights/publish_s": broadcasts.seconds, "version": version + 1.0})
    peer.send(Finish(generation=generation, version=cfg.run.steps))
    batches.take(TIMEOUT_S)
    peer.close()


def numbers_of(batch: Batch) -> dict[str, float]:
    """What the buffer says of the batch, and its lengths and rewards."""
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    lengths = [rollout.num_tokens for rollout in rollouts]
    return batch.metrics | {
        "learner/tokens": float(sum(lengths)),
        "rollout/count": float(len(rollouts)),
        "rollout/tokens_mean": fmean(lengths),
        "reward/mean": fmean(rollout.verdict.reward or 0.0 for rollout in rollouts),
    }


def run_sleeping_learner() -> None:
    """Read the command line, and be the learner until the run ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("speed", help="LearnerSpeed as JSON")
    args = parser.parse_args()
    sleep_as_learner(load_config(args.folder / "config.yaml"), msgspec.json.decode(args.speed, type=LearnerSpeed))


if __name__ == "__main__":
    run_sleeping_learner()
