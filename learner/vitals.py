"""The learner's vitals: what it does or waits for, and the numbers of its steps, for the endpoint of its process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

from ..common.config.sections import Config
from ..common.monitoring.endpoint import serve_vitals
from ..common.monitoring.exposition import Metric, MetricKind, step_metric
from ..common.monitoring.vitals import Vitals

SLACK_S = 60.0  # beyond learner.starve_s, after which a learner that waits ends by itself
LONG_STEP = 20.0  # times the longest step so far: one that takes longer is stuck, unless that is less than starve_s
# seconds of a record that are added up
SPENT_SECONDS = ("wait_s", "compute_s", "publish_s", "checkpoint_s", "step_s", "cpu_s")
# numbers of a record that go into the trace
TRACED = (
    "learner/reference_s",
    "learner/proximal_s",
    "learner/forward_backward_s",
    "learner/optimizer_s",
    "learner/compute_s",
    "learner/tokens",
    "reward/mean",
    "buffer/staleness_max",
    "policy/ess",
)


class LearnerVitals:
    """Of one rank."""

    def __init__(self, vitals: Vitals, starve_s: float) -> None:
        self._vitals, self._starve_s, self.tracer = vitals, starve_s, vitals.tracer
        # no step has begun: what came before the first one says nothing of how long steps take
        self._longest_s, self._began = 0.0, math.inf
        self._sums: dict[str, float] = {}
        # a sweep is in the record of one step, and stands until the next
        self._validation: dict[str, float] = {}

    def starts(self, what: str) -> None:
        """The learner is not in its loop yet."""
        self._vitals.enter(what, hindrance="it starts")

    def waits(self, version: int) -> None:
        """The learner waits for the batch of `version`."""
        self._longest_s = max(self._longest_s, monotonic() - self._began)
        self._vitals.enter(f"waits for the batch of version {version}", limit_s=self._starve_s + SLACK_S)

    def trains(self, version: int) -> None:
        """The learner has that batch."""
        self._began = monotonic()
        limit_s = max(self._starve_s, LONG_STEP * self._longest_s)
        self._vitals.enter(f"trains the batch of version {version}", limit_s=limit_s)

    def ends(self) -> None:
        """The loop is over: the last version is saved, and validated."""
        self._vitals.enter("saves the last version and waits for its validation", limit_s=2 * self._starve_s + SLACK_S)

    def recorded(self, version: int, record: Mapping[str, float]) -> None:
        """A step is done, and its record written."""
        self.tracer.add("step", self._began, monotonic(), version=version, **traced_numbers(record))
        if not self._vitals.watched:
            return
        finite = {name: float(value) for name, value in record.items() if math.isfinite(float(value))}
        grown = {name: finite.get(f"learner/{name}", 0.0) for name in (*SPENT_SECONDS, "tokens")} | {"steps": 1.0}
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in grown.items()}
        sweep = {name: value for name, value in finite.items() if name.startswith("validation/")}
        self._validation = sweep or self._validation
        self._vitals.publish(learner_metrics(version, finite | self._validation, self._sums))


def learner_metrics(version: int, record: Mapping[str, float], sums: Mapping[str, float]) -> Iterator[Metric]:
    """The numbers of the last step, and the sums over all steps since the process started."""
    counter = MetricKind.counter
    yield Metric("learner_version", float(version), about="policy version that the learner made last")
    yield Metric("learner_steps", sums["steps"], counter, about="steps since the process started")
    yield Metric("learner_tokens", sums["tokens"], counter, about="completion tokens trained since the process started")
    for name in SPENT_SECONDS:
        activity = {"activity": name.removesuffix("_s")}
        yield Metric("learner_seconds", sums[name], counter, activity, "seconds by activity; step: all of them")
    for name, value in record.items():
        yield step_metric(name, value)


def traced_numbers(record: Mapping[str, float]) -> dict[str, float]:
    """The finite numbers of a record that its span carries, by their names without the group."""
    return {name.partition("/")[2]: value for name in TRACED if math.isfinite(value := float(record.get(name, math.nan)))}


@contextmanager
def learner_vitals(cfg: Config) -> Iterator[LearnerVitals]:
    """The vitals of this rank, served by the first rank of each node while the block runs. Raises: AddressInUse."""
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    here = cfg if local_rank == 0 else replace(cfg, run=replace(cfg.run, http_port=0))
    with serve_vitals(here, "learner", "learner" if rank == 0 else f"learner-{rank}") as vitals:
        yield LearnerVitals(vitals, cfg.learner.starve_s)
