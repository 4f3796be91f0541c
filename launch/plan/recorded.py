"""A recorded run as calibration reads it: settings, sums of metrics over stretches of steps, and lengths of its groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from ...buffer.journal.journal import read_journal
from ...common.config.run_files import RunPaths, load_config
from ...common.config.sections import Config
from ...common.errors import JournalError, UserError
from ...common.metrics import MetricsRecord, read_metrics
from ...common.types import Group
from .simulation.result import WARM_UP

STRETCH = 5  # steps that are added up: heartbeats come twice a second, and a step may be shorter
MIN_STEPS = 11  # a start and two stretches
MAX_GROUPS = 400  # of the journal that are read
IN_EVERY_STEP = ("wall_s", "buffer/staleness_mean", "rollout/tokens_mean")
# steps between two heartbeats may lack those of actors
IN_SOME_STEP = (
    "learner/step_s",
    "learner/wait_s",
    "learner/compute_s",
    "learner/cpu_s",
    "learner/tokens",
    "rollout/count",
    "reward/mean",
    "actor/busy_s",
    "actor/cpu_s",
    "actor/engine_steps",
    "actor/engine_running",
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive steps, added up."""

    first: int  # version that its first step started from
    records: list[MetricsRecord]

    def __getitem__(self, name: str) -> float:
        """The sum of a metric; steps without it count 0."""
        return sum(record.get(name) or 0.0 for record in self.records)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run that has ended, or got far enough."""

    paths: RunPaths
    cfg: Config
    records: list[MetricsRecord]  # one per step
    lengths: list[int]  # tokens of completions that the journal still holds
    prompt_tokens: int  # of a mean prompt among them; 0 without any
    others: float = 0.0  # processes of somebody else that wanted a core of its host

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.paths.folder.name

    def stretches(self) -> Iterator[Stretch]:
        """The run without its first step, which holds the start of its processes."""
        return self._stretches(1)

    def warm_stretches(self) -> Iterator[Stretch]:
        """The run once caches are filled and verifiers have started: without the steps that `first_warm` counts."""
        return self._stretches(self.first_warm)

    def _stretches(self, first: int) -> Iterator[Stretch]:
        for start in range(first, len(self.records) - STRETCH + 1, STRETCH):
            yield Stretch(start, self.records[start : start + STRETCH])

    @property
    def groups_per_step(self) -> int:
        return self.cfg.buffer.batch_groups

    @property
    def first_warm(self) -> int:
        """The number of steps at the start that say little of those that follow; a simulation leaves as many out."""
        return max(int(len(self.records) * WARM_UP), 1)

    @property
    def measured(self) -> list[MetricsRecord]:
        """The steps after the start and before the end, when fewer tickets are issued and the last groups are used up."""
        last = max(len(self.records) - self.cfg.buffer.eta, self.first_warm + STRETCH)
        return self.records[self.first_warm : last]

    @property
    def measured_s(self) -> float:
        """Seconds of these steps."""
        return self.measured[-1]["wall_s"] - self.records[self.first_warm - 1]["wall_s"]

    @property
    def steps_per_s(self) -> float:
        """Steps per second, without start and end."""
        return len(self.measured) / self.measured_s

    @property
    def staleness_mean(self) -> float:
        """Mean staleness of the groups that were trained, without start and end."""
        return fmean(record["buffer/staleness_mean"] for record in self.measured)


def read_recorded(name: str, root: str = "runs") -> RecordedRun:
    """The run of that name or folder. Raises: UserError for one that lacks metrics, or has too few steps; JournalError."""
    paths = next((found for found in map(RunPaths, (Path(name), Path(root) / name)) if found.metrics.is_file()), None)
    if paths is None or not paths.config.is_file():
        raise UserError(f"run {name!r}: expected a run's folder, or its name in {root}/, with metrics.jsonl and config.yaml")
    records = read_metrics(paths.metrics)
    if len(records) < MIN_STEPS:
        raise UserError(f"{paths.metrics} has {len(records)} steps: expected at least {MIN_STEPS}, to tell speeds from noise")
    cfg = load_config(paths.config)
    if cfg.pools:
        raise UserError(
            f"run {name!r} has the pools {', '.join(cfg.pools)}, whose sums metrics.jsonl holds together: record a run of each "
            "kind of actor without pools, and put the pools of their plans into one file"
        )
    _check_metrics(paths.metrics, records)
    lengths, prompt_tokens = _read_lengths(paths.journal)
    return RecordedRun(paths, cfg, records, lengths, prompt_tokens)


def _check_metrics(path: Path, records: list[MetricsRecord]) -> None:
    """Raises: UserError for a run whose speeds cannot be known."""
    missing = [name for name in IN_EVERY_STEP if any(record.get(name) is None for record in records)]
    missing += [name for name in IN_SOME_STEP if all(record.get(name) is None for record in records)]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: expected a run of reinforcement learning, recorded by this version of prolong"
        )
    stood = [later["step"] for earlier, later in pairwise(records) if later["wall_s"] <= earlier["wall_s"]]
    if stood:
        raise UserError(f"{path}: wall_s is not larger at step {stood[0]} than a step before; expected seconds that add up")


def some_groups(folder: Path, most: int) -> list[Group]:
    """At most so many groups of a journal, spread evenly over what it holds, in the order of their tickets.

    Those that the buffer of a live run drops before their turn are left out. Raises: JournalError when there is no journal.
    """
    groups: list[Group] = []
    with closing(read_journal(folder)) as journal:
        ordinals = journal.groups()
        for ordinal in ordinals[:: len(ordinals) // most + 1]:
            with suppress(JournalError):
                groups.append(journal.group(ordinal))
    return groups


def _read_lengths(folder: Path) -> tuple[list[int], int]:
    """Lengths of completions in a journal, and the mean length of their prompts; nothing where there is no journal."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return [], 0
    groups = some_groups(folder, MAX_GROUPS)
    lengths = [rollout.num_tokens for group in groups for rollout in group.rollouts]
    prompts = [len(group.prompt.token_ids) // 4 for group in groups]
    return lengths, round(sum(prompts) / len(prompts)) if prompts else 0
