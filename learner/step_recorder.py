"""What the learner tells of its steps: a record of metrics each, its vitals and trace, now and then a line in its log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter, process_time

from ..common.config.algorithm import ObjectiveConfig
from ..common.config.run_files import run_paths
from ..common.config.sections import Config
from ..common.config.stages import total_steps
from ..common.config.trees import largest_eta
from ..common.metrics import MetricsWriter
from ..common.monitoring.vitals import Vitals
from ..common.telemetry import Spans
from ..common.types import Batch
from .checkpoints.checkpoint import LearnerState
from .drift import DriftWatch
from .report import SPENT, ProgressLog
from .vitals import LearnerVitals

log = logging.getLogger(__name__)


class StepRecorder:
    """That of one rank. Every rank adds up the sums that a checkpoint holds; only the first one writes anything."""

    def __init__(self, cfg: Config, state: LearnerState, *, first: bool) -> None:
        """`first`: whether this is rank 0, which alone writes metrics.jsonl. The sums of `state` grow here."""
        self._state, self._first, self._launch = state, first, cfg.launch
        # nobody asks for them, unless the process has an endpoint
        self.vitals = LearnerVitals(Vitals("learner", "learner", cfg.run.name), cfg.learner.starve_s)
        self.spans = Spans()
        self._metrics = MetricsWriter(run_paths(cfg).folder, resume_step=state.version) if first else None
        self._drift = DriftWatch(eta=largest_eta(cfg.buffer), minibatches=cfg.learner.minibatches)
        self._progress = ProgressLog(total_steps(cfg))
        # CPU seconds of this process at its last record
        self._cpu_s = process_time()
        # whether the log says that launch.stop_s is short
        self._warned_of_stop = False

    def report_to(self, vitals: LearnerVitals) -> None:
        """Tell these vitals, and their trace, from now on."""
        self.vitals, self.spans = vitals, Spans(vitals.tracer)

    def record(self, batch: Batch, metrics: Mapping[str, float], step_s: float, objective: ObjectiveConfig) -> None:
        """Write the step's line of metrics, and add its cumulative numbers to the state. `objective`: of the present stage."""
        state = self._state
        record = {**metrics, **self.spans.take()}
        state.wall_s += step_s
        state.staleness_max = max(state.staleness_max, int(batch.metrics.get("buffer/staleness_max", 0)))
        for name in SPENT:
            state.spent[name] = state.spent.get(name, 0.0) + record.get(f"learner/{name}", 0.0)
        cpu_s, self._cpu_s = process_time() - self._cpu_s, process_time()
        if self._metrics is None:
            return
        record |= {"version": float(state.version), "wall_s": state.wall_s, "learner/step_s": step_s, "learner/cpu_s": cpu_s}
        self._metrics.write(state.version, record)
        self.vitals.recorded(state.version, record)
        self._progress.tell(state.version, record, perf_counter())
        if text := self._drift.note(record, objective):
            log.warning("%s", text)

    def checkpoint_took(self, version: int, took_s: float) -> None:
        """Say once that a signal would not leave enough time for a checkpoint, which took as long as it did."""
        given_s = self._launch.leave_s
        if took_s <= given_s or not self._first or self._warned_of_stop:
            return
        self._warned_of_stop = True
        log.warning(
            "checkpoint %d took %.1f s, but launch.stop_s = %g leaves %.1f s for one: the last steps before a stop would "
            "be computed again; launch.stop_s=%.0f is enough",
            version,
            took_s,
            self._launch.stop_s,
            given_s,
            2 * took_s + 4,
        )

    def close(self) -> None:
        """Make metrics.jsonl durable and release it."""
        if self._metrics is not None:
            self._metrics.close()
