"""The end of a run: summary.json as a table of scores before and after, and two closing lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from rich import box
from rich.markup import escape
from rich.table import Table

from ..common.errors import UserError
from ..common.json_object import JsonObject
from ..common.metrics import MetricsRecord
from ..common.types import ValidationSetting

SETTINGS_SHOWN = (ValidationSetting.sampled, ValidationSetting.greedy)


def read_summary(path: Path) -> JsonObject:
    """The content of a summary.json. Raises: UserError when the file is not one."""
    try:
        summary = json.loads(path.read_text())
        return {"steps": 0, "wall_s": 0.0, "ledger": {}, "before": {}, "after": {}, **summary}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected the summary of an ended run ({error})") from error


def by_domain(by_task: dict[str, float]) -> dict[str, float]:
    """Domain -> mean over its tasks; keys of `by_task` are "domain/task"."""
    domains: dict[str, list[float]] = {}
    for name, score in by_task.items():
        domains.setdefault(name.partition("/")[0], []).append(score)
    return {domain: fmean(scores) for domain, scores in sorted(domains.items())}


def scores_table(summary: JsonObject) -> Table:
    """A row for each domain, its tasks below it, and the mean over tasks; a column for each setting of validation."""
    settings = [name for name in SETTINGS_SHOWN if name in summary["after"] or name in summary["before"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("held-out pass rate")
    for setting in settings:
        table.add_column(setting, justify="right", no_wrap=True)
    # (before, after) of each setting
    columns = [(summary["before"].get(setting, {}), summary["after"].get(setting, {})) for setting in settings]
    tasks = sorted({task for pair in columns for side in pair for task in side.get("by_task", {})})
    for domain in sorted({task.partition("/")[0] for task in tasks}):
        pairs = [[by_domain(side.get("by_task", {})).get(domain) for side in pair] for pair in columns]
        table.add_row(f"[bold]{escape(domain)}", *(f"[bold]{_arrow(*pair)}" for pair in pairs))
        for task in (task for task in tasks if task.startswith(f"{domain}/")):
            pairs = [[side.get("by_task", {}).get(task) for side in pair] for pair in columns]
            table.add_row(escape(f"  {task.partition('/')[2]}"), *(_arrow(*pair) for pair in pairs))
    table.add_section()
    table.add_row("[bold]mean over tasks", *(f"[bold]{_arrow(*(side.get('mean') for side in pair))}" for pair in columns))
    return table


def closing_lines(summary: JsonObject, folder: Path) -> list[str]:
    """Steps, duration, groups, staleness and resets of the run, its folder, and what shows more of it."""
    trained = summary["ledger"].get("trained", 0)
    return [
        f"{summary['steps']} steps in {format_duration(summary['wall_s'])}, {trained} groups trained, "
        f"staleness at most {summary.get('staleness_max', 0)}, {summary.get('reference_resets', 0)} reference resets",
        f"run folder: {folder}",
        f"a page about it: prolong report {folder}",
        f"where its time went: prolong diagnose {folder}",
    ]


def format_duration(seconds: float) -> str:
    """1:02:03 or 2:03; a dash for a number that is not finite."""
    if not math.isfinite(seconds):
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_score(value: float | None) -> str:
    """.41, or a dash for None."""
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def _arrow(before: float | None, after: float | None) -> str:
    return f"{format_score(before)} -> {format_score(after)}"


def newest_agreement(records: Iterable[MetricsRecord]) -> dict[str, float]:
    """The figures of the newest step that had tokens to compare between sampler and learner, without "agreement/"."""
    found: dict[str, float] = {}
    for record in records:
        if record.get("agreement/tokens"):
            found = {key.removeprefix("agreement/"): value for key, value in record.items() if key.startswith("agreement/")}
            found["step"] = record["step"]
    return found


def agreement_text(figures: Mapping[str, float]) -> str:
    """`newest_agreement` in words."""
    if not figures:
        return "nothing to compare yet: no token of the version that trained it"
    apart = f"engine and learner {figures['logprob_gap']:.1e} nats apart"
    return f"{apart}   ess {figures['ess']:.3f}   {figures['tokens']:,.0f} tokens of step {figures['step']:.0f}"
