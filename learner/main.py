"""`prolong learner`, one rank of it: batches in, policy versions out.

    feed.take -> trainer.train -> StepDone, weights -> reference reset -> checkpoint -> metrics

The weights that it starts from are published before optimizer and reference exist: actors begin meanwhile.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

from ..common.compose import run_paths
from ..common.config import Config, ModelConfig
from ..common.errors import ModelError
from ..common.metrics import MetricsWriter
from ..common.models import context_limit, resolve_device
from ..common.telemetry import Spans
from ..common.types import Batch
from .checkpoint import LearnerState, find_newest, load_checkpoint, read_state, save_checkpoint
from .link import Link
from .policy import Policy, build_policy
from .ranks import Ranks, join_ranks, leave_ranks
from .reference import Reference
from .report import SPENT, batch_metrics, summarize, write_summary
from .step import Trainer

log = logging.getLogger(__name__)


def main(cfg: Config) -> None:
    """Train until `run.steps`, or until SIGTERM or SIGINT; the last version is saved either way. Returns then: exit code 0.

    Raises: ProlongError.
    """
    device = resolve_device(cfg.model.device)
    ranks = join_ranks(starve_s=cfg.learner.starve_s, cuda=device.type == "cuda", always=cfg.model.dtype != "float32")
    device = resolve_device(cfg.model.device, ranks.local_rank)
    torch.manual_seed(cfg.run.seed)
    with stop_on_signals() as stop:
        link = Link(cfg, ranks, stop)
        try:
            Learner(cfg, ranks, link, device).run()
        finally:
            link.close()
            leave_ranks()


class Learner:
    """One rank of the learner. Building it connects, loads and publishes."""

    def __init__(self, cfg: Config, ranks: Ranks, link: Link, device: torch.device) -> None:
        self.cfg, self.ranks, self.link, self.device = cfg, ranks, link, device
        self.paths = run_paths(cfg)
        checkpoint = find_newest(self.paths.checkpoints)
        self.state = LearnerState() if checkpoint is None else read_state(checkpoint)
        self.saved = self.state.version if checkpoint else -1
        link.connect(self.state.version, self.state.generation)
        model = cfg.model if checkpoint is None else replace(cfg.model, path=str(checkpoint))
        check_context(model)
        policy = self._load(model)
        link.open_weights(policy, device)
        link.publish(self.state.version, policy)
        reference = None
        if cfg.objective.kl_beta > 0:
            reference = Reference(self._load(model, trainable=False))
        self.trainer = Trainer(cfg, policy, reference, ranks, device)
        if checkpoint is not None:
            load_checkpoint(checkpoint, self.state, self.trainer, ranks)
        self.spans = Spans()
        self.metrics = MetricsWriter(self.paths.folder, resume_step=self.state.version) if ranks.first else None
        log.info("learner at version %d of %d, generation %d", self.state.version, cfg.run.steps, link.generation)

    def _load(self, model: ModelConfig, *, trainable: bool = True) -> Policy:
        return build_policy(
            model,
            device=self.device,
            temperature=self.cfg.sampling.temperature,
            chunk=self.cfg.learner.logprob_chunk,
            shard=self.ranks.size > 1 or model.dtype != "float32",
            reshard=self.cfg.learner.fsdp_reshard,
            trainable=trainable,
            recompute=self.cfg.learner.recompute,
        )

    def run(self) -> None:
        """The loop.

        Consumes: batches. Blocks on: the feed, until the buffer's contract allows a batch. Unblocked by: BatchReady,
        SIGTERM, Stop. Stops when: `run.steps` are done, a signal came, or the buffer is gone or says so; always with its
        version saved.
        """
        since = perf_counter()
        while self.state.version < self.cfg.run.steps:
            with self.spans("learner/wait"):
                batch = self.link.feed.take(self.state.version)
            if batch is None:
                break
            metrics = self.trainer.train(batch)
            self.state.version += 1
            with self.spans("learner/publish"):
                self.link.step_done(self.state.version)
                self.link.publish(self.state.version, self.trainer.policy)
            self._maybe_reset()
            if self.state.version % self.cfg.checkpoint.every == 0:
                self._save()
            step_s, since = perf_counter() - since, perf_counter()
            self._record(batch, metrics, step_s)
        if self.state.version != self.saved:
            self._save()
        if self.link.feed.ended is not None:
            raise self.link.feed.ended
        if self.state.version >= self.cfg.run.steps:
            self._finish(since)

    def _maybe_reset(self) -> None:
        """reference <- policy, every `reference.reset_every` steps; without a KL term there is nothing to reset."""
        reset = self.cfg.reference
        if self.trainer.reference is None or reset.reset_every == 0 or self.state.version % reset.reset_every:
            return
        self.trainer.reference.reset(self.trainer.policy)
        if reset.reset_optimizer:
            self.trainer.reset_optimizer()
        log.info("reference reset at version %d: epoch %d", self.state.version, self.trainer.reference.epoch)

    def _save(self) -> None:
        with self.spans("learner/checkpoint"):
            self.state.generation = self.link.generation
            self.state.reference_epoch = self.trainer.reference.epoch if self.trainer.reference else 0
            self.state.skipped, self.state.skipped_in_row = self.trainer.skipped, self.trainer.skipped_in_row
            source = Path(self.cfg.model.path)
            save_checkpoint(
                self.paths.checkpoints,
                self.state,
                self.trainer,
                self.ranks,
                dtype=self.cfg.model.dtype,
                source=source if source.is_dir() else find_newest(self.paths.checkpoints),
                keep=self.cfg.checkpoint.keep,
            )
            self.saved = self.state.version
            self.link.checkpoint_saved(self.state.version)

    def _record(self, batch: Batch, metrics: dict[str, float], step_s: float) -> None:
        """One line of metrics; what is cumulative goes into the state."""
        record = batch_metrics(batch) | metrics | self.spans.take() | self.link.metrics()
        self.state.wall_s += step_s
        self.state.staleness_max = max(self.state.staleness_max, int(batch.metrics.get("buffer/staleness_max", 0)))
        for name in SPENT:
            self.state.spent[name] = self.state.spent.get(name, 0.0) + record.get(f"learner/{name}", 0.0)
        if self.metrics is not None:
            own = {
                "version": float(self.state.version),
                "wall_s": self.state.wall_s,
                "learner/step_s": step_s,
                "reference/epoch": float(self.trainer.reference.epoch if self.trainer.reference else 0),
            }
            self.metrics.write(self.state.version, record | own)

    def _finish(self, since: float) -> None:
        """The last validation, then the summary."""
        status = self.link.finish(self.state.version)
        if status is None:
            return
        self.state.wall_s += perf_counter() - since
        if self.metrics is not None:
            self.metrics.close()
        self.state.reference_epoch = self.trainer.reference.epoch if self.trainer.reference else 0
        write_summary(self.paths.summary, summarize(self.state, status))


def check_context(model: ModelConfig) -> None:
    """Raise ModelError if the model cannot take `model.max_context` tokens."""
    limit = context_limit(model.path)
    if limit is not None and model.max_context > limit:
        raise ModelError(f"model.max_context = {model.max_context}: {model.path} takes at most {limit} tokens; lower it")


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT set the event instead of killing this process; the handlers that were there come back afterwards."""
    stop = threading.Event()

    def request(number: int, _: object) -> None:
        log.warning("%s: the step under way is finished, then the learner saves and leaves", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
