"""The display of `prolong train`: a live page on a terminal, one line per step elsewhere.

Its only sources are the tail of metrics.jsonl (one record per learner step) and the Status of the buffer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from time import monotonic

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...common.config.algorithm import ObjectiveConfig
from ...common.messages import Status
from ...common.metrics import MetricsTail, StepNumbers
from ...common.types import TicketState, ValidationSetting
from ...learner.drift import DriftWatch
from ..summary import agreement_text, by_domain, format_duration, format_score, newest_agreement

BARS = "▁▂▃▄▅▆▇█"
RECENT = 10  # steps that rates and shares are averaged over
CURVE = 12  # characters of a reward curve, over the whole run


def last_step(metrics: Path) -> int:
    """The number of the last step in metrics.jsonl; 0 before the first."""
    records, _ = MetricsTail(metrics, tell=lambda _: None).read()
    return int(records[-1]["step"]) if records else 0


@dataclass(slots=True)
class RunProgress:
    """The state of a run, as far as it is known."""

    run: str
    steps: int
    eta: int  # the largest that there may be
    folder: Path
    adapts: bool = False  # eta moves
    drift: DriftWatch | None = None
    objectives: list[ObjectiveConfig] = field(default_factory=list)  # of each stage, for `drift`
    started: float = field(default_factory=monotonic)
    stages: list[str] = field(default_factory=list)  # names of the stages
    first_step: int = 0  # the last step before the run was resumed
    records: deque[StepNumbers] = field(default_factory=lambda: deque(maxlen=RECENT))
    # domain -> one mean per step, from the start
    rewards: dict[str, list[float]] = field(default_factory=dict)
    # (step, domain -> pass rate), oldest first
    heldout: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    status: Status | None = None
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=3))

    def add(self, records: Iterable[StepNumbers], *, restarted: bool = False) -> None:
        if restarted:
            self.records.clear()
            self.rewards.clear()
            self.heldout.clear()
        for record in records:
            self.records.append(record)
            if self.drift is not None and (text := self.drift.note(record, self.objectives[_stage_index(self)])):
                self.notes.append(text)
            for domain in sorted(_domains(record)):
                self.rewards.setdefault(domain, []).append(record[f"reward/{domain}"])
            if scores := heldout_scores(record):
                self.heldout.append((int(record["step"]), scores))

    @property
    def step(self) -> int:
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def left_s(self) -> float | None:
        """Seconds left, from the pace of the last steps; None before there are three."""
        if len(self.records) < 3:
            return None
        first, last = self.records[0], self.records[-1]
        pace_s = (last["wall_s"] - first["wall_s"]) / max(1.0, last["step"] - first["step"])
        return max(0.0, pace_s) * (self.steps - self.step)

    def last(self, key: str) -> float | None:
        return self.records[-1].get(key) if self.records else None

    def recent(self, key: str) -> list[float]:
        """The values of `key` in the last steps. Step 1 includes the start-up, and counts only while it is alone."""
        return [record[key] for record in self.records if key in record and (record["step"] > 1 or len(self.records) == 1)]

    def mean(self, key: str) -> float | None:
        """The mean over the last steps."""
        values = self.recent(key)
        return fmean(values) if values else None

    @property
    def idle_share(self) -> float | None:
        """The idle share of the actors' time over the last steps."""
        spent = [self.mean(f"actor/{key}") for key in ("idle_s", "busy_s", "weights_s")]
        total = sum(value for value in spent if value is not None)
        return spent[0] / total if spent[0] is not None and total > 0 else None

    @property
    def wait_share(self) -> float | None:
        """The share of the learner's time in which it waited for a batch, over the last steps."""
        wait, step = self.mean("learner/wait_s"), self.mean("learner/step_s")
        return None if wait is None or step is None else min(1.0, wait / max(step, 1e-9))

    @property
    def tokens_per_s(self) -> float | None:
        """Trained tokens per second, waiting included."""
        tokens, step = self.mean("learner/tokens"), self.mean("learner/step_s")
        return None if tokens is None or step is None else tokens / max(step, 1e-9)


def _domains(record: StepNumbers) -> set[str]:
    return {key.split("/")[1] for key in record if key.startswith("reward/") and key.count("/") == 1} - {"mean"}


def sparkline(values: Sequence[float], width: int = CURVE) -> str:
    """Values from 0 to 1 in at most `width` characters, each the mean of a stretch of values."""
    width = min(width, len(values))
    cuts = [i * len(values) // width for i in range(width + 1)] if width else []
    means = [fmean(values[start:end]) for start, end in pairwise(cuts)]
    return "".join(BARS[min(len(BARS) - 1, max(0, int(mean * len(BARS))))] for mean in means)


def heldout_scores(record: StepNumbers, setting: ValidationSetting = ValidationSetting.sampled) -> dict[str, float]:
    """Domain -> pass rate, of the validation scores of a record (validation/SETTING/DOMAIN/TASK)."""
    prefix = f"validation/{setting}/"
    return by_domain(
        {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix) and key.count("/") == 3}
    )


def live_page(progress: RunProgress) -> RenderableType:
    """The live page, for 80 columns or more."""
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="bold", no_wrap=True, width=10)
    rows.add_column(ratio=1)
    for label, value in _rows(progress):
        # a string would be read as markup, and pools may have any name
        rows.add_row(label, Text(value) if isinstance(value, str) else value)
    parts: list[RenderableType] = [_step_row(progress), rows]
    parts += [Text(f"! {note}", style="yellow") for note in progress.notes]
    left = "" if progress.left_s is None else f", {format_duration(progress.left_s)} left"
    title = f"[bold]prolong[/] {escape(progress.run)}"
    subtitle = f"{format_duration(monotonic() - progress.started)} gone{left}"
    return Panel(Group(*parts), title=title, subtitle=subtitle, title_align="left", subtitle_align="right", box=box.ROUNDED)


def _step_row(progress: RunProgress) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(style="bold", no_wrap=True, width=10)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row("step", f"{progress.step} / {progress.steps}", ProgressBar(total=progress.steps, completed=progress.step))
    return grid


def _rows(progress: RunProgress) -> list[tuple[str, RenderableType]]:
    rows: list[tuple[str, RenderableType]] = []
    if progress.step == progress.first_step:
        rows.append(("starting", Text(starting_sentence(progress), style="dim")))
    if progress.stages and progress.records:
        rows.append(("stage", f"{_stage_count(progress)}: {progress.stages[_stage_index(progress)]}"))
    if progress.records:
        rows += [
            ("reward", _rewards(progress)),
            ("held-out", _heldout(progress)),
            ("staleness", _staleness(progress)),
            ("agreement", agreement_text(newest_agreement(progress.records))),
            ("waiting", _waiting(progress)),
            ("speed", _speed(progress)),
            *([("pools", pools)] if (pools := _pools(progress)) else []),
        ]
    if progress.status is not None and progress.status.waits_for:
        rows.append(("late", Text(progress.status.waits_for)))
    if progress.status is not None:
        rows.append(("ledger", _ledger(progress.status)))
    return rows


def _stage_index(progress: RunProgress) -> int:
    index = progress.last("stage/index")
    return 0 if index is None else int(index)


def _stage_count(progress: RunProgress) -> str:
    return f"{_stage_index(progress) + 1}/{len(progress.stages)}"


def starting_sentence(progress: RunProgress) -> str:
    """What is up before the first step, and where to look if it takes long."""
    logs = f"(logs: {progress.folder}/logs)"
    if progress.status is None:
        return f"prompts are fine; buffer, learner and actors start {logs}"
    connected = [f"{name} {peer.get('state', '')}".strip() for name, peer in sorted(progress.status.peers.items())]
    if not connected:
        return f"buffer serves; learner and actors load their libraries {logs}"
    # held-out prompts come first, if there are any
    works = any(peer.get("state") == "ready" for peer in progress.status.peers.values())
    return f"buffer serves, {', '.join(connected)}{'; the first rollouts are sampled' if works else ''} {logs}"


def _rewards(progress: RunProgress) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for domain, history in sorted(progress.rewards.items()):
        tasks = {key.split("/")[2]: value for key, value in progress.records[-1].items() if key.startswith(f"reward/{domain}/")}
        words = Text("  ".join(f"{task} {format_score(value)}" for task, value in sorted(tasks.items())), style="dim")
        grid.add_row(
            Text(domain),
            Text(format_score(history[-1]), style="bold cyan"),
            Text(sparkline(history), style="cyan", no_wrap=True),
            words,
        )
    return grid


def _heldout(progress: RunProgress) -> RenderableType:
    if not progress.heldout:
        return Text("-", style="dim")
    (first_step, first), (step, last) = progress.heldout[0], progress.heldout[-1]
    text = Text()
    for domain, value in last.items():
        before = f"{format_score(first.get(domain))} -> " if step > first_step else ""
        text.append(f"{domain} {before}").append(f"{format_score(value)}   ", style="bold green")
    return text.append(f"(step {first_step} -> {step})" if step > first_step else f"(step {step})", style="dim")


def _staleness(progress: RunProgress) -> str:
    # both over the same steps: the mean of ten steps may exceed the maximum of the last one
    mean = progress.mean("buffer/staleness_mean")
    largest = max(progress.recent("buffer/staleness_max"), default=None)
    epoch = _number(progress.last("reference/epoch"), ".0f")
    return f"mean {_number(mean, '.2f')}   max {_number(largest, '.0f')}   {_bound(progress)}   reference epoch {epoch}"


def _bound(progress: RunProgress) -> str:
    """The largest eta that may be; of one that adapts, also what it is now and why."""
    now = progress.last("buffer/eta")
    if not progress.adapts or now is None:
        return f"bound {progress.eta}"
    why = progress.status.eta_why if progress.status is not None else ""
    return f"bound {now:.0f} of {progress.eta}" + (f" ({why})" if why else "")


def _waiting(progress: RunProgress) -> str:
    actors = _number(progress.last("actor/num_actors"), ".0f")
    return f"learner waits {_percent(progress.wait_share)}   actors ({actors}) idle {_percent(progress.idle_share)}"


def _speed(progress: RunProgress) -> str:
    weights = _milliseconds(progress.mean("weights/publish_s"), progress.mean("weights/encode_s"))
    step = _number(progress.mean("learner/step_s"), ".2f")
    use = _percent(progress.mean("perf/mfu"))
    return f"{_number(progress.tokens_per_s, ',.0f')} tokens/s   step {step} s   weights {weights}   mfu {use}"


def _pools(progress: RunProgress) -> str:
    """Tokens per second of every pool and the rollouts that its engines run; empty without pools."""
    prefix, record = "perf/pool_tokens_per_s/", progress.records[-1]
    speeds = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
    running = {pool: record.get(f"perf/pool_running/{pool}") for pool in speeds}
    return "   ".join(f"{pool} {speeds[pool]:,.0f} tokens/s ({_number(running[pool], '.0f')} run)" for pool in sorted(speeds))


def _ledger(status: Status) -> RenderableType:
    text = Text()
    for state in TicketState:
        if state is TicketState.filtered:
            text.append("\n")
        count = status.ledger.get(state.value, 0)
        text.append(f"{state.value} ", style="dim").append(f"{count:,}  ")
    balanced = Text("balanced", style="green") if status.balanced else Text("NOT BALANCED", style="bold red")
    return text.append(f"= {status.ledger.get('total', 0):,} ").append(balanced)


def live_line(progress: RunProgress) -> str:
    """The state in one line, for logs and pipes."""
    rewards = " ".join(f"{domain} {format_score(history[-1])}" for domain, history in sorted(progress.rewards.items()))
    scores = progress.heldout[-1][1] if progress.heldout else {}
    heldout = " ".join(f"{domain} {format_score(value)}" for domain, value in scores.items())
    left = "-" if progress.left_s is None else format_duration(progress.left_s)
    mean, largest = progress.last("buffer/staleness_mean"), progress.last("buffer/staleness_max")
    weights = _milliseconds(progress.last("weights/publish_s"), progress.last("weights/encode_s"))
    parts = [
        f"step {progress.step}/{progress.steps}" + (f" stage {_stage_count(progress)}" if progress.stages else ""),
        f"reward {rewards or format_score(progress.last('reward/mean'))}",
        f"held-out {heldout or '-'}",
        f"staleness {_number(mean, '.1f')}/{_number(largest, '.0f')}" + _eta_now(progress),
        f"learner waits {_percent(progress.wait_share)} actors idle {_percent(progress.idle_share)}",
        f"{_number(progress.tokens_per_s, ',.0f')} tokens/s",
        f"weights {weights}",
        f"reference {_number(progress.last('reference/epoch'), '.0f')}",
        f"left {left}",
    ]
    return "  ".join(parts)


def _eta_now(progress: RunProgress) -> str:
    now = progress.last("buffer/eta") if progress.adapts else None
    return "" if now is None else f" eta {now:.0f}"


def _milliseconds(*seconds: float | None) -> str:
    """The first of them that is known."""
    known = [value for value in seconds if value is not None]
    return f"{known[0] * 1000:.0f} ms" if known else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
