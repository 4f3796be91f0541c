"""`prolong learner`, one rank of it: batches come in, policy versions go out.

source.take -> trainer.train -> outcome (reference reset, next stage) -> step_done, publish -> metrics -> checkpoint
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import torch

from ..common.config.choices import Offload, ResetSource
from ..common.config.run_files import run_paths
from ..common.config.sections import Config, LearnerConfig, ModelConfig
from ..common.config.stages import staged_configs, total_steps
from ..common.config.trees import lora_config
from ..common.errors import AlertStop, ModelError, RunStopped, require
from ..common.models import context_limit, resolve_device
from ..common.signals import StopRequest, leave_on_signals, stop_on_signals
from ..common.tokenizer import tokenizer_folder
from ..common.types import Batch, StepEvidence
from .checkpoints.checkpoint import (
    LearnerState,
    checkpoint_path,
    fill_policy,
    find_newest_of_all,
    load_checkpoint,
    read_state,
    return_to_best,
)
from .checkpoints.saver import Checkpointer
from .model.policy import Policy, build_policy
from .model.reference import AdapterReference, Reference
from .ranks import Ranks, join_ranks, leave_ranks
from .report import batch_metrics, summarize, write_summary
from .schedule import Schedule, StepOutcome, evidence_of
from .source.api import BatchSource
from .source.live import LiveSource, resume_hint
from .step import StepConfig, Trainer
from .step_recorder import StepRecorder
from .stopping import StepDropped, StopAgreement
from .vitals import LearnerVitals, learner_vitals

log = logging.getLogger(__name__)


def main(cfg: Config, make_source: Callable[[Config, Ranks, threading.Event], BatchSource] = LiveSource) -> None:
    """Train until `run.steps` or the last stage's end, or until SIGTERM or SIGINT. The last version is saved in any case.

    A step that a signal interrupts is dropped: its batch is recorded, and taken again by the learner that resumes.
    make_source: builds the source of batches: a live buffer, or the recorded batches of a run.
    Raises: ProlongError; RunStopped with exit code 0 when a signal came before the first step.
    """
    with learner_vitals(cfg) as vitals:
        vitals.starts("meets the other ranks, connects and loads the model")
        _train(cfg, make_source, vitals)


def _train(cfg: Config, make_source: Callable[[Config, Ranks, threading.Event], BatchSource], vitals: LearnerVitals) -> None:
    device = resolve_device(cfg.model.device)
    cfg.model.settle_auto(on_gpu=device.type == "cuda")
    # until all have met a signal ends a rank at once: nothing can be lost, and one that waits for others would not hear of it
    ranks = join_ranks(
        starve_s=cfg.learner.starve_s,
        cuda=device.type == "cuda",
        always=cfg.model.dtype != "float32",
        shard_ranks=cfg.learner.shard_ranks,
        context_parallel=cfg.learner.context_parallel,
    )
    stop = StopRequest()
    with stop_on_signals(stop, "the step under way is dropped, then the learner saves and leaves"):
        device = resolve_device(cfg.model.device, ranks.local_rank)
        torch.manual_seed(cfg.run.seed)
        source = make_source(cfg, ranks, stop)
        try:
            learner = _start(cfg, ranks, source, device, stop)
            learner.recorder.report_to(vitals)
            with contextlib.closing(learner.saver):
                ended = learner.run()
            if stop.is_set() and not ended and ranks.first:
                saved = f"version {learner.saved} is saved" if learner.saved >= 0 else "no step was finished"
                log.warning("%s; %s", saved, resume_hint(cfg))
        finally:
            source.close()
            leave_ranks()


def _start(cfg: Config, ranks: Ranks, source: BatchSource, device: torch.device, stop: StopRequest) -> Learner:
    """As `Learner.start`, but a signal ends it at once, whatever it loads or waits for: nothing can be lost before a step.

    Raises: also RunStopped, on every rank.
    """
    stopped = RunStopped(f"told to stop before the first step, nothing is lost; {resume_hint(cfg)}")
    try:
        with leave_on_signals(stop, stopped):
            return Learner.start(cfg, ranks, source, device, stop)
    except RuntimeError:
        # another rank left first, in the middle of what they did together
        if stop.is_set() and ranks.size > 1:
            raise stopped from None
        raise


class Learner:
    """One rank of the learner. `start` connects, loads and publishes; `run` is the loop."""

    def __init__(
        self,
        cfg: Config,
        ranks: Ranks,
        source: BatchSource,
        *,
        state: LearnerState,
        schedule: Schedule,
        trainer: Trainer,
        saver: Checkpointer,
        saved: int,
        stop: StopRequest,
    ) -> None:
        """Put connected and loaded parts together. saved: version of the newest checkpoint, -1 without one."""
        self.cfg, self.ranks, self.source = cfg, ranks, source
        self.state, self.schedule, self.trainer, self.saver, self.saved = state, schedule, trainer, saver, saved
        self.agreement = StopAgreement(ranks, stop, leave_s=cfg.launch.leave_s)
        self.saved_at = self.stepped_at = perf_counter()
        self.paths = run_paths(cfg)
        self.recorder = StepRecorder(cfg, state, first=ranks.first)

    @classmethod
    def start(
        cls, cfg: Config, ranks: Ranks, source: BatchSource, device: torch.device, stop: StopRequest | None = None
    ) -> Learner:
        """Connect the source, load the newest checkpoint or the model, and publish its weights. Collective.

        The weights are published before reference and optimizer exist: actors begin meanwhile. Blocks as `source.connect`
        does. Raises: as `source.connect`; ModelError, CheckpointError, WeightsError.
        """
        paths = run_paths(cfg)
        checkpoint = find_newest_of_all(paths.checkpoints, ranks)
        state = LearnerState() if checkpoint is None else read_state(checkpoint)
        schedule = Schedule(cfg, state.stage, state.resets, state.alerts)
        source.connect(state.version, state.generation, state.stage.index)
        # shards of several ranks, and adapters, are put into the model of the run; other checkpoints are models themselves
        partial = state.ranks > 1 or lora_config(cfg.model) is not None
        model = cfg.model if checkpoint is None or partial else replace(cfg.model, path=str(checkpoint))
        check_context(model)
        policy = load_policy(model, cfg.learner, ranks, device)
        if checkpoint is not None and partial:
            fill_policy(policy, checkpoint)
        source.open_weights(policy, device)
        source.publish(state.version, policy)
        reference = load_reference(cfg, model, policy, ranks, device)
        ranks.allow_for(sum(parameter.numel() for parameter in policy.parameters()))
        trainer = Trainer(StepConfig.of(schedule.cfg), policy, reference, ranks, device)
        if checkpoint is not None:
            load_checkpoint(checkpoint, state, trainer, ranks)
        saver = Checkpointer(
            paths.checkpoints,
            ranks,
            dtype=cfg.model.dtype,
            source=tokenizer_folder(cfg.model.path) if checkpoint is None else checkpoint,
            keep=cfg.checkpoint.keep,
            resumed=checkpoint,
        )
        saved = -1 if checkpoint is None else state.version
        return cls(
            cfg,
            ranks,
            source,
            state=state,
            schedule=schedule,
            trainer=trainer,
            saver=saver,
            saved=saved,
            stop=StopRequest() if stop is None else stop,
        )

    def run(self) -> bool:
        """Run the loop; return whether the run has ended with its summary written, which only rank 0 can tell.

        Consumes: batches. Blocks on: the batch source, until the staleness contract allows a batch. Unblocked by: BatchReady,
        SIGTERM, Stop. Stops when: `run.steps` are done, a signal came, or the buffer is gone or has ended the run; always
        with its version saved, unless a step had already changed the policy when the time to leave was over.
        """
        version, steps = self.state.version, total_steps(self.cfg)
        # from here on a signal finds a version to save
        log.info("learner at version %d of %d, generation %d", version, steps, self.source.generation)
        since, saveable = perf_counter(), True
        while not self.schedule.ended(self.state.version):
            asked = perf_counter()
            self.recorder.vitals.waits(self.state.version)
            with self.recorder.spans("learner/wait"):
                batch = self.source.take(self.state.version)
            wait_s = perf_counter() - asked
            if batch is None:
                break
            self.recorder.vitals.trains(self.state.version)
            factor = self.schedule.lr_factor(self.state.version)
            try:
                metrics = batch_metrics(batch) | self.trainer.train(batch, self.agreement.ask, lr_factor=factor)
            except StepDropped as dropped:
                saveable = dropped.unchanged
                break
            self.state.version += 1
            outcome_metrics = self._act_on_outcome(batch, metrics)
            due = self._save_is_due()
            with self.recorder.spans("learner/publish"):
                evidence = self._evidence(metrics, wait_s)
                self.source.step_done(self.state.version, self.schedule.stage.index, saves=due, evidence=evidence)
                self.source.publish(self.state.version, self.trainer.policy)
            step_s, since = perf_counter() - since, perf_counter()
            self._record(batch, metrics | outcome_metrics, step_s)
            if due:
                self._save()
            self._report_durable()
        self.recorder.vitals.ends()
        if saveable and self.state.version != self.saved:
            self._save()
        self.saver.wait()
        self._report_durable()
        if self.source.ended is not None:
            raise self.source.ended
        if not self.schedule.ended(self.state.version):
            return False
        self.saver.export(self.trainer.policy, self.state.version)
        return self._finish(since)

    def _evidence(self, metrics: dict[str, float], wait_s: float) -> StepEvidence:
        """What the step that ends now says of the staleness of its batch."""
        step_s, self.stepped_at = perf_counter() - self.stepped_at, perf_counter()
        return StepEvidence(ess=metrics["policy/ess"], kl=metrics["policy/kl_behaviour_k3"], wait_s=wait_s, step_s=step_s)

    def _act_on_outcome(self, batch: Batch, metrics: dict[str, float]) -> dict[str, float]:
        """Reset the reference, change the stage and raise alerts where the step calls for it; return the metrics of that."""
        version, stage = self.state.version, self.schedule.stage.index
        since = version - self.schedule.resets.last
        outcome = self.schedule.step_outcome(evidence_of(batch, metrics, version))
        recorded = {
            "stage/index": float(stage),
            "reference/steps": float(since),
            "reference/asked": float(batch.reset_requested),
        }
        if outcome.stage:
            self.trainer.configure(StepConfig.of(self.schedule.cfg))
            log.info("stage %s begins at version %d", self.cfg.stages[self.schedule.stage.index].name, version)
        if self.trainer.reference is not None and self.schedule.averages_reference(version):
            self.trainer.reference.average(self.trainer.policy, self.schedule.cfg.reference.ema)
        if outcome.reset:
            self._reset(outcome.reset)
            recorded[f"reference/reset_{outcome.reset}"] = 1.0
        self._announce(outcome)
        return recorded | self.schedule.alert_metrics(outcome)

    def _announce(self, outcome: StepOutcome) -> None:
        """Say which limits were passed, and halt if an answer is to stop. The same on every rank."""
        said = [alert.sentence(self.schedule.limits.steps) for alert in outcome.alerts]
        if self.ranks.first:
            for sentence in said:
                log.warning("version %d: %s", self.state.version, sentence)
        if outcome.stops:
            self.source.halt(AlertStop(f"version {self.state.version}: {'; '.join(said)}; {resume_hint(self.cfg)}"))

    def _reset(self, reason: str) -> None:
        """Copy the policy to the reference and replace the optimizer, as far as `reference` says.

        With source `best` the policy itself first goes back to the version with the best validation score.
        """
        how = self.schedule.cfg.reference
        if how.source is ResetSource.best:
            self._return_to_best()
        if how.reset_reference and self.trainer.reference is not None:
            self.trainer.reference.reset(self.trainer.policy)
        if how.reset_optimizer:
            self.trainer.reset_optimizer()
        log.info("reset %d at version %d (%s)", self.schedule.resets.count, self.state.version, reason)

    def _return_to_best(self) -> None:
        """Fill the policy with the version of the best validation score; before any sweep has ended, with the first one."""
        version = max(self.schedule.resets.record_version, 0)
        if version == 0:
            self.trainer.policy.reload(self.cfg.model)
            return
        # that very checkpoint may be under way
        self.saver.wait()
        return_to_best(self.trainer.policy, checkpoint_path(self.paths.checkpoints, version))

    def _save_is_due(self) -> bool:
        """Whether the present version is to be saved, by its number or because the last one is old. Collective.

        Rank 0's clock decides; what a slow disk is still writing is not waited for. The ranks also agree here whether to leave.
        """
        self.agreement.ask()
        late = 0 < self.cfg.checkpoint.every_s <= perf_counter() - self.saved_at and not self.saver.busy
        by_time = self.ranks.sum_(torch.tensor(float(late and self.ranks.first))) > 0
        return bool(by_time) or self.state.version % self.cfg.checkpoint.every == 0

    def _save(self) -> None:
        """Begin to save the present version."""
        with self.recorder.spans("learner/checkpoint"):
            self.state.generation = self.source.generation
            self.state.stage, self.state.resets = self.schedule.stage, self.schedule.resets
            self.state.alerts = self.schedule.alerts
            self.saver.save(self.state, self.trainer, protect=self.schedule.protected())
            self.saved, self.saved_at = self.state.version, perf_counter()

    def _report_durable(self) -> None:
        """Report the checkpoints that have reached the disk: only these let the buffer forget the batches before them."""
        for version in self.saver.durable():
            self.source.checkpoint_saved(version)
            self.recorder.checkpoint_took(version, self.saver.save_s)

    def _record(self, batch: Batch, metrics: dict[str, float], step_s: float) -> None:
        epoch = self.trainer.reference.epoch if self.trainer.reference else 0
        parts = self.source.metrics() | self.saver.metrics() | {"reference/epoch": float(epoch)}
        self.recorder.record(batch, metrics | parts, step_s, self.schedule.cfg.objective)

    def _finish(self, since: float) -> bool:
        """Wait for the last validation, then write the summary; return whether there is one."""
        status = self.source.finish(self.state.version)
        if status is None:
            return False
        self.state.wall_s += perf_counter() - since
        self.recorder.close()
        self.state.reference_epoch = self.trainer.reference.epoch if self.trainer.reference else 0
        write_summary(self.paths.summary, summarize(self.state, status))
        return True


def load_policy(
    model: ModelConfig,
    learner: LearnerConfig,
    ranks: Ranks,
    device: torch.device,
    *,
    trainable: bool = True,
    averaged: bool = False,
) -> Policy:
    """Load a policy on this rank, sharded if there are several ranks or it computes in less than float32.

    averaged: it keeps float32 weights although it is not trainable. Raises: ModelError; ConfigError for an offload of what is
    not sharded.
    """
    shard = ranks.size > 1 or model.dtype != "float32"
    offload = learner.offload is Offload.all or (learner.offload is Offload.reference and not trainable)
    require(shard or not offload, "learner.offload", learner.offload.name, "none with a single rank in float32")
    return build_policy(
        model,
        device=device,
        chunk=learner.logprob_chunk,
        shard=shard,
        mesh=ranks.mesh,
        reshard=learner.fsdp_reshard,
        offload=offload,
        trainable=trainable,
        recompute=learner.recompute,
        sharing=ranks.sharing,
        compiled=learner.compile,
        averaged=averaged,
    )


def load_reference(cfg: Config, model: ModelConfig, policy: Policy, ranks: Ranks, device: torch.device) -> Reference | None:
    """Load the reference of a KL term, beside the policy of the same model; None without that term."""
    if cfg.objective.kl_beta == 0:
        return None
    if lora_config(model) is not None:
        # adapters need no second model
        return AdapterReference(policy)
    averaged = any(stage.reference.ema > 0 for stage in staged_configs(cfg))
    return Reference(load_policy(model, cfg.learner, ranks, device, trainable=False, averaged=averaged))


def check_context(model: ModelConfig) -> None:
    """Raise ModelError if the model cannot take `model.max_context` tokens."""
    limit = context_limit(model.path)
    if limit is not None and model.max_context > limit:
        raise ModelError(f"model.max_context = {model.max_context}: {model.path} takes at most {limit} tokens; lower it")
