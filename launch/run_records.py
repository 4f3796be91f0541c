"""What a run has recorded, for Python programs: settings, metrics, scores, rollouts. Everything is read, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..buffer.journal.journal import read_journal
from ..common.config.run_files import RunPaths, find_checkpoints, load_config
from ..common.config.sections import Config
from ..common.json_object import JsonObject
from ..common.metrics import MetricsRecord, read_metrics
from ..common.tokenizer import Tokenizer
from ..common.types import Group, Rollout, int32_array
from .diagnosis.diagnose import diagnose
from .diagnosis.diagnosis import Diagnosis
from .status import run_status
from .summary import read_summary


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRollout:
    """One rollout of a batch that the learner was given."""

    version: int  # of the policy that the step started from
    uid: str  # of the prompt
    domain: str
    task: str
    prompt: str
    completion: str
    reward: float | None
    status: str  # of the verdict: ok, no_answer, truncated, ...
    detail: str
    metrics: dict[str, float]  # that the verifier reported
    finish_reason: str
    num_tokens: int
    spans: list[tuple[int, int, int]]  # (policy version, first token, end): who sampled what
    actor: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run, live or ended, by its folder."""

    folder: Path

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.folder)

    def config(self) -> Config:
        """The settings that it was last started with."""
        return load_config(self.paths.config)

    def metrics(self) -> list[MetricsRecord]:
        """One record for each learner step so far, {"step": 1, "reward/mean": .4, ...}: rows for `pandas.DataFrame`."""
        return read_metrics(self.paths.metrics, exact=False) if self.paths.metrics.exists() else []

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one metric; steps without it are left out."""
        return [(record["step"], record[name]) for record in self.metrics() if record.get(name) is not None]

    def summary(self) -> JsonObject | None:
        """How it ended: steps, seconds, ledger, held-out scores before and after. None while it has not."""
        return read_summary(self.paths.summary) if self.paths.summary.exists() else None

    def status(self) -> JsonObject:
        """State and ledger, as `prolong status --json` prints them."""
        return run_status(self.paths)

    def diagnosis(self) -> Diagnosis:
        """Where each side's time went, which roof binds, and what each change would gain. Takes up to a minute."""
        return diagnose(self.folder)

    def checkpoints(self) -> dict[int, Path]:
        """Folders of the complete checkpoints, by version; `prolong export` makes models of them."""
        return find_checkpoints(self.paths.checkpoints)

    def rollouts(self, versions: Sequence[int] | None = None) -> Iterator[TrainedRollout]:
        """The rollouts of recorded batches, in the order of training; of all that the journal holds, or of `versions`.

        The journal holds what the kept checkpoints need, or everything with `buffer.keep_history=true`. Raises: JournalError.
        """
        tokenizer = Tokenizer.load(self.config().model.path)
        journal = read_journal(self.paths.journal)
        try:
            for version in journal.versions():
                batch = journal.batch(version) if versions is None or version in versions else None
                for group in batch.groups if batch else []:
                    for rollout in group.rollouts:
                        yield _readable(version, group, rollout, tokenizer)
        finally:
            journal.close()


def _readable(version: int, group: Group, rollout: Rollout, tokenizer: Tokenizer) -> TrainedRollout:
    verdict = rollout.verdict
    return TrainedRollout(
        version=version,
        uid=group.prompt.uid,
        domain=group.prompt.domain,
        task=group.prompt.task,
        prompt=group.prompt.text,
        completion=tokenizer.decode(int32_array(rollout.token_ids), skip_special=True),
        reward=verdict.reward,
        status=verdict.status.value,
        detail=verdict.detail,
        metrics=dict(verdict.metrics),
        finish_reason=rollout.finish_reason.value,
        num_tokens=rollout.num_tokens,
        spans=[(span.version, span.start, span.end) for span in rollout.spans],
        actor=group.actor,
    )
